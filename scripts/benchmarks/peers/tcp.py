"""The floor: the request's and the reply's bytes over a TCP socket, blocking, without any format."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

from benchmarks.worker import Server, Side, serve, timed

TIMEOUT_S = 30.0


class Client(Side):
    """Sends ``there`` bytes, waits for ``back`` bytes."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({"bytes_there": config["there"], "bytes_back": config["back"]})
        self._socket = socket.create_connection((config["host"], config["port"]), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = bytes(range(256)) * (config["there"] // 256 + 1)
        self._request = self._request[: config["there"]]
        self._reply = bytearray(config["back"])

    def round(self) -> Mapping[str, float]:
        return timed(self._exchange)

    def _exchange(self) -> None:
        self._socket.sendall(self._request)
        receive_exactly(self._socket, memoryview(self._reply))

    def close(self) -> None:
        self._socket.close()


def receive_exactly(connection: socket.socket, into: memoryview) -> bool:
    """Fill ``into``; False where the other side has closed."""
    while len(into):
        received = connection.recv_into(into)
        if not received:
            return False
        into = into[received:]
    return True


def listen(config: Mapping[str, Any]) -> Server:
    """Answers ``there`` bytes with ``back`` bytes, one connection after the other."""
    listener = socket.create_server((config["host"], 0))
    listener.settimeout(None)

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request, reply = memoryview(bytearray(config["there"])), bytes(config["back"])
                while receive_exactly(connection, request):
                    connection.sendall(reply)

    threading.Thread(target=run, daemon=True).start()
    return Server({"port": listener.getsockname()[1]}, listener.close)


def make(config: dict[str, Any]) -> Side:
    return listen(config) if config["role"] == "server" else Client(config)


if __name__ == "__main__":
    sys.exit(serve(make))
