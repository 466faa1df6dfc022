"""(c) Bytes on the wire for one inference, by image size and encoding: the request's CDR, and the reply's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, Result
from benchmarks.folders import CHUNK, STATE_DIM, make_observation, picture_bytes
from benchmarks.measure import Goal
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.wire.envelope import Reply, Request, encode_reply, encode_request
from inference_service.wire.interfaces import serialize
from inference_service.wire.variants import VARIANTS_LIST

SIZES = ((480, 640), (224, 224), (96, 128))
CODECS = ("f32", "f16", "u8", "jpeg:95", "jpeg:90", "jpeg:75")
RATE_HZ = 10


def run(bench: Bench) -> Result:
    data: dict[str, Any] = {}
    for height, width in SIZES:
        own = {codec: request_bytes(bench.folder(height, width), height, width, codec) for codec in CODECS}
        data[f"{height}x{width}"] = {"cameras": picture_bytes(height, width), **own}
    data["reply"] = reply_bytes()
    notes = [
        "The pictures are shades with a camera's noise; a JPEG's size depends on what it shows.",
        f"The reply, a chunk of {CHUNK} x {STATE_DIM} float32: {data['reply']} bytes.",
    ]
    if bench.peer_python:
        data["peers"] = _peers(bench)
    else:
        notes.append("LeRobot and the websocket server were left out: no --peers.")
    full = data["480x640"]
    goals = [
        Goal("u8 bytes / camera bytes", full["u8"] / full["cameras"], 1.01),
        Goal("jpeg q90 bytes / camera bytes", full["jpeg:90"] / full["cameras"], 0.1),
    ]
    return Result(data, {"Bytes of a request": _table(data)}, goals, notes)


def request_bytes(folder: Path, height: int, width: int, codec: str) -> int:
    """Length of the request's CDR with every picture in ``codec``."""
    loaded = PolicyFolder.load(folder)
    prepared = TensorPreprocessor(loaded)(make_observation(height, width))
    request = Request(
        "0" * 32,
        prepared.batch,
        device_id="act_inference_node@00000000",
        session="0" * 16,
        sequence=1,
        deadline_ms=5000.0,
        obs_stamp_ns=1,
        fingerprint=loaded.fingerprint,
    )
    codecs = {key: codec for key in prepared.batch if "images" in key and codec != "f32"}
    return len(serialize(encode_request(request, extended=True, codecs=codecs), VARIANTS_LIST))


def reply_bytes() -> int:
    timing = {"queue": 0.0, "decode": 0.0, "inference": 0.0, "encode": 0.0}
    action = np.zeros((CHUNK, STATE_DIM), np.float32)
    reply = Reply("0" * 32, action, timing_ms=timing, device_id="d", session="0" * 16, engine_id="e")
    return len(serialize(encode_reply(reply, extended=True), VARIANTS_LIST))


def _peers(bench: Bench) -> dict[str, dict[str, int]]:
    height, width = SIZES[0]
    size = {"height": height, "width": width, "folder": str(bench.folder(height, width))}
    clients = bench.clients(
        {
            "openpi-style websocket": ("websocket", size),
            "LeRobot async gRPC": ("lerobot_async", {**size, "floor_s": 0.0}),
        }
    )
    return {name: client.info for name, client in clients.items()}


def _table(data: dict[str, Any]) -> list[list[str]]:
    sizes = [f"{height}x{width}" for height, width in SIZES]
    rows = [["", *(f"2 x {size}" for size in sizes), f"Mbit/s at {sizes[0]}, {RATE_HZ} Hz"]]
    for codec in ("cameras", *CODECS):
        own = [data[size][codec] for size in sizes]
        rows.append([codec, *(f"{count:,}" for count in own), f"{own[0] * 8 * RATE_HZ / 1e6:.1f}"])
    for name, peer in data.get("peers", {}).items():
        there, back = peer["bytes_there"], peer["bytes_back"]
        rows.append([f"{name} (reply {back:,})", f"{there:,}", "", "", f"{(there + back) * 8 * RATE_HZ / 1e6:.1f}"])
    return rows
