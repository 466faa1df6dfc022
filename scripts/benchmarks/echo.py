"""The floor of our own transport: ready CDR there and back over DDS, nothing encoded and nothing looked at."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.worker import Server, Side, serve, timed
from inference_service.transport import create_node
from inference_service.wire.interfaces import new_message, serialize

BYTES = "std_msgs/msg/UInt8MultiArray"
TIMEOUT_S = 20.0


def _message(size: int) -> memoryview:
    return serialize(new_message(BYTES, data=np.zeros(size, np.uint8)), BYTES)


class Client(Side):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        self._node = create_node("bench_echo_client")
        self._back = threading.Event()
        self._request = _message(config["there"])
        self._publisher = self._node.create_publisher("/bench/there", BYTES)
        self._node.create_subscription("/bench/back", BYTES, lambda _: self._back.set(), group="replies")
        self._wait_for_server()

    def _wait_for_server(self) -> None:
        for _ in range(100):
            self._publisher.publish_serialized(self._request)
            if self._back.wait(0.2):
                return
        raise TimeoutError("nobody echoes")

    def round(self) -> Mapping[str, float]:
        return timed(self._exchange)

    def _exchange(self) -> None:
        self._back.clear()
        self._publisher.publish_serialized(self._request)
        if not self._back.wait(TIMEOUT_S):
            raise TimeoutError("no echo")

    def close(self) -> None:
        self._node.close()


def listen(config: Mapping[str, Any]) -> Server:
    node = create_node("bench_echo_server")
    reply = _message(config["back"])
    publisher = node.create_publisher("/bench/back", BYTES)
    node.create_subscription("/bench/there", BYTES, lambda _: publisher.publish_serialized(reply), group="requests")
    return Server({}, node.close)


def make(config: dict[str, Any]) -> Side:
    return listen(config) if config["role"] == "server" else Client(config)


if __name__ == "__main__":
    sys.exit(serve(make))
