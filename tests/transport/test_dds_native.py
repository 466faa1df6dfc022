"""Samples by ctypes: nothing copied that need not be, nothing freed that is still seen, nothing blocked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.errors import TransportError
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


def _parts(cdr: memoryview) -> list[native.Part]:
    """Something small, something large of another element type, something small."""
    return [bytes(cdr[:100]), np.frombuffer(cdr[100:200_100], np.int32), cdr[200_100:]]


@pytest.mark.parametrize("told", [True, False], ids=["in parts", "put together"])
def test_parts_arrive_as_one_sample(domain_id: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not told:  # a library that does not tell a writer's type
        monkeypatch.setattr(native, "_get_sertype", None)
    participant = Participant(load_config())
    layout = message_layout(IMAGE)
    reader = RawReader(participant, "rt/a", layout, QoS(), b"")
    writer = RawWriter(participant, "rt/a", layout, QoS(), b"")
    whole = native.padded(_image(1_000_000))
    writer.write_parts(_parts(memoryview(whole)))
    taken = reader.take()
    assert taken is not None
    assert bytes(taken.cdr) == bytes(whole)
    participant.close()


def test_parts_of_another_layout_or_to_a_closed_writer_are_refused(domain_id: int) -> None:
    participant = Participant(load_config())
    writer = RawWriter(participant, "rt/a", message_layout(IMAGE), QoS(), b"")
    with pytest.raises(TransportError, match="cannot send 12 bytes"):
        writer.write_parts([b"\x00\x01\x00\x00", b"\xff" * 8])
    writer.close()
    with pytest.raises(TransportError, match="cannot send"):
        writer.write_parts(_parts(memoryview(native.padded(_image(1_000_000)))))
    participant.close()


def test_sending_in_parts_leaves_no_memory_behind(domain_id: int) -> None:
    participant = Participant(load_config())
    layout = message_layout(IMAGE)
    reader = RawReader(participant, "rt/a", layout, QoS(depth=1), b"")
    writer = RawWriter(participant, "rt/a", layout, QoS(depth=1), b"")
    parts = _parts(memoryview(native.padded(_image(1_000_000))))

    def resident_kb() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    for turn in range(80):
        if turn == 20:
            before = resident_kb()
        writer.write_parts(parts)
        assert reader.take() is not None
    assert resident_kb() - before < 15_000  # 60 leaked samples would be 60 MB
    participant.close()
