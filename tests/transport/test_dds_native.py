"""Samples by ctypes: nothing copied that need not be, nothing freed that is still seen, nothing blocked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inference_service.transport.dds import native
from inference_service.transport.dds.config import load_config
from inference_service.transport.dds.endpoints import Participant, RawReader, RawWriter
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import new_message, serialize

ROOT = Path(__file__).parents[2]
IMAGE = "sensor_msgs/msg/Image"
SINK = """
import sys, threading
from inference_service.transport import create_node
create_node("sink").create_subscription("/pictures", "sensor_msgs/msg/Image", lambda _: None)
print("ready", flush=True)
threading.Event().wait(60)
"""


def _image(size: int) -> memoryview:
    return serialize(new_message(IMAGE, data=np.arange(size, dtype=np.uint8)), IMAGE)


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_taken_sample_is_read_only_and_outlives_its_reader(domain_id: int, size: int) -> None:
    participant = Participant(load_config())
    layout = message_layout(IMAGE)
    reader = RawReader(participant, "rt/a", layout, QoS(), b"")
    writer = RawWriter(participant, "rt/a", layout, QoS(), b"")
    assert reader.take() is None
    writer.write(_image(size))
    taken = reader.take()
    assert taken is not None
    assert memoryview(taken.cdr).readonly
    for endpoint in (writer, reader):
        endpoint.close()
    participant.close()
    assert bytes(taken.cdr)[: len(_image(size))] == bytes(_image(size))
    with pytest.raises(native.NativeError):
        reader.take()


def test_a_large_sample_is_not_copied(domain_id: int) -> None:
    participant = Participant(load_config())
    layout = message_layout(IMAGE)
    first = RawReader(participant, "rt/a", layout, QoS(), b"")
    second = RawReader(participant, "rt/a", layout, QoS(), b"")
    writer = RawWriter(participant, "rt/a", layout, QoS(), b"")
    writer.write(_image(1_000_000))
    views = [np.frombuffer(taken.cdr, np.uint8) for taken in (first.take(), second.take()) if taken]
    # Both readers of one process are given the library's one buffer.
    assert views[0].ctypes.data == views[1].ctypes.data
    participant.close()


@pytest.mark.parametrize("size", range(5))
def test_lengths_are_padded_to_four(size: int) -> None:
    padded = native.padded(bytes(range(1, size + 1)))
    assert len(padded) % 4 == 0
    assert bytes(padded)[size:] == bytes(len(padded) - size)


def test_a_frozen_subscriber_stops_neither_the_timers_nor_close(domain_id: int) -> None:
    """Fault: the process that subscribes stops (SIGSTOP, ``docker pause``) in the middle of a reliable stream.
    Expected: ``publish`` goes on without it. Invariant: timers tick, close returns."""
    sink = subprocess.Popen([sys.executable, "-c", SINK], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    node = DdsNode("camera")
    try:
        assert sink.stdout is not None
        assert sink.stdout.readline() == "ready\n"
        publisher = node.create_publisher("/pictures", IMAGE)
        ticks: list[float] = []
        node.create_timer(0.01, lambda: ticks.append(1), group="control")
        deadline = time.monotonic() + 10
        while not publisher.matched and time.monotonic() < deadline:
            time.sleep(0.01)
        publisher.publish_serialized(_image(1_000_000))
        sink.send_signal(signal.SIGSTOP)
        slowest = 0.0
        for _ in range(30):
            before = time.monotonic()
            publisher.publish_serialized(_image(1_000_000))
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < 1, "publish waits for a subscriber that does not answer"
        seen = len(ticks)
        while len(ticks) < seen + 10 and time.monotonic() < deadline + 10:
            time.sleep(0.01)
        assert len(ticks) >= seen + 10
    finally:
        start = time.monotonic()
        node.close()
        closed_in = time.monotonic() - start
        sink.kill()
        sink.wait(10)
    assert closed_in < 2
