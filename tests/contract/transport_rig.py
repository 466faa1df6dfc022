"""What the transport tests share: nodes that are closed, waiting with a deadline, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from inference_service.transport import create_node
from inference_service.transport.protocol import ActionClient, GoalStatus, Node
from inference_service.wire.interfaces import new_message
from tests.simulators.rclpy.rig import REAL, SEARCH_PATH, rclpy_importable

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
INFER = "ibrobot_msgs/action/DispatchInfer"
STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/Image"

TRANSPORTS = ["dds", pytest.param("ros", id="ros" if REAL else "ros_simulated")]


class Nodes:
    """Makes nodes and closes them all at the end."""

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._open: list[Node] = []

    def __call__(self, name: str, **options: Any) -> Node:
        node = create_node(name, self._transport, **options)
        self._open.append(node)
        return node

    def close(self) -> None:
        for node in self._open:
            node.close()


@contextmanager
def open_nodes(transport: str) -> Iterator[Nodes]:
    with rclpy_importable() if transport == "ros" else nullcontext():
        nodes = Nodes(transport)
        try:
            yield nodes
        finally:
            nodes.close()


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def wait_ready(client: ActionClient) -> None:
    wait_for(lambda: client.server_is_ready, "an action server")


def goal(prompt: str = "", inference_id: str = "") -> Any:
    return new_message(f"{INFER}_Goal", prompt=prompt, inference_id=inference_id)


def result(message: str = "", success: bool = True) -> Any:
    return new_message(f"{INFER}_Result", message=message, success=success)


class Outcome:
    """Collects what an action client reports; usable as its ``on_result``."""

    def __init__(self) -> None:
        self.calls: list[tuple[GoalStatus, Any]] = []
        self._event = threading.Event()

    def __call__(self, status: GoalStatus, message: Any) -> None:
        self.calls.append((status, message))
        self._event.set()

    def wait(self) -> tuple[GoalStatus, Any]:
        assert self._event.wait(PATIENCE_S), "no result of the goal"
        return self.calls[0]


@contextmanager
def peer(transport: str, role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process (``transport_peer.py``), ready when this returns and gone at the end."""
    command = [sys.executable, str(Path(__file__).with_name("transport_peer.py")), transport, role, *arguments]
    path = os.pathsep.join((*(SEARCH_PATH if transport == "ros" else ()), str(ROOT), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{role} did not start"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
