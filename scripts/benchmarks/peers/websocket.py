"""A policy server and client as openpi's: msgpack over a websocket, arrays as maps of their bytes, dtype and shape.

Written against the protocol that openpi publishes (packages/openpi-client): the server sends its metadata on
connection, then answers each observation with ``actions`` and ``server_timing``; no compression, no limit on the size.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.sync.client import connect

from benchmarks.folders import CHUNK, STATE_DIM, make_observation
from benchmarks.worker import Server, Side, serve, timed

TIMEOUT_S = 30.0


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return value


def _unpack_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


def pack(message: Any) -> bytes:
    packed: bytes = msgpack.packb(message, default=_pack_array)
    return packed


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, object_hook=_unpack_array, strict_map_key=False)


class Client(Side):
    """``dtype`` float32 sends what a device that preprocesses would send: the model's tensors."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._connection = connect(
            f"ws://{config['host']}:{config['port']}", compression=None, max_size=None, open_timeout=TIMEOUT_S
        )
        unpack(self._connection.recv(timeout=TIMEOUT_S))  # type: ignore[arg-type]
        observation = make_observation(config["height"], config["width"])
        images = {
            key.rpartition(".")[2]: value.astype(config.get("dtype", "uint8"))
            for key, value in observation.items()
            if "images" in key
        }
        self._observation = {"state": observation["observation.state"], "images": images, "prompt": ""}
        super().__init__({"bytes_there": len(pack(self._observation)), "bytes_back": len(self._exchange())})

    def _exchange(self) -> bytes:
        self._connection.send(pack(self._observation))
        reply = self._connection.recv(timeout=TIMEOUT_S)
        assert isinstance(reply, bytes)
        actions = unpack(reply)["actions"]
        assert actions.shape == (CHUNK, STATE_DIM)
        return reply

    def round(self) -> Mapping[str, float]:
        return timed(self._exchange)

    def close(self) -> None:
        self._connection.close()


async def _answer(connection: ServerConnection) -> None:
    await connection.send(pack({"name": "constant"}))
    actions = np.zeros((CHUNK, STATE_DIM), np.float32)
    async for message in connection:
        started = time.monotonic()
        assert isinstance(message, bytes)
        unpack(message)
        timing = {"infer_ms": (time.monotonic() - started) * 1e3}
        await connection.send(pack({"actions": actions, "server_timing": timing}))


def listen(config: Mapping[str, Any]) -> Server:
    loop = asyncio.new_event_loop()
    started = threading.Event()
    port: list[int] = []

    async def run() -> None:
        server = await serve_websocket(_answer, config["host"], 0, compression=None, max_size=None)
        port.append(next(iter(server.sockets)).getsockname()[1])
        started.set()
        await server.wait_closed()

    threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True).start()
    if not started.wait(TIMEOUT_S):
        raise RuntimeError("the websocket server did not start")
    return Server({"port": port[0]})


def make(config: dict[str, Any]) -> Side:
    return listen(config) if config["role"] == "server" else Client(config)


if __name__ == "__main__":
    sys.exit(serve(make))
