"""(b) Everything but the model, between two processes on one machine: ours by codec, and others beside it.

A round begins with the cameras' uint8 pictures and ends with the chunk in robot units: preprocessing, encoding, DDS,
decoding, the engine's checks, the reply, postprocessing. The engine's policy costs nothing: it looks at no picture, as
the websocket and TCP peers do not, or (``float``) makes the model's float32 tensors of them, as LeRobot's server does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Bench, Result, constant, mode_of
from benchmarks.costs import step_costs
from benchmarks.folders import CHUNK, STATE_DIM, picture_bytes
from benchmarks.measure import Goal, Run, Series, interleave, ratio
from inference_service.wire.shared_memory import DEFAULT_DIRECTORY

FULL_SIZE = (480, 640)
SIZES = (FULL_SIZE, (224, 224), (96, 128))
REPLY_BYTES = CHUNK * STATE_DIM * 4
ROUNDS = 30
# Slow ones get fewer rounds: their medians settle sooner in relation.
FEWER = {"f32": 12, "f16": 12, "lerobot": 15, "lerobot as shipped": 8, "websocket float32": 8}
PACED_S = 1 / 30
PACED = ("u8", "u8, shared memory", "u8 + float", "tcp", "websocket", "lerobot")
GOALS = (
    ("u8", "tcp", 2.5),
    ("u8", "websocket", 0.5),
    ("u8 + float", "lerobot", 0.07),
    ("u8, shared memory", "tcp", 0.5),
)

LABELS = {
    "u8": "ours, u8",
    "u8, shared memory": "ours, u8, pictures through shared memory",
    "u8 + float": "ours, u8, float32 tensors made on the engine",
    "f16": "ours, f16",
    "f32": "ours, f32 (IB-Robot's plain form)",
    "jpeg:90": "ours, jpeg q90",
    "dds": "ready CDR of the same bytes (our transport's floor)",
    "tcp": "raw TCP of the same bytes",
    "websocket": "openpi-style websocket",
    "websocket float32": "openpi-style websocket, float32 tensors",
    "lerobot": "LeRobot async gRPC, latency floor off",
    "lerobot as shipped": "LeRobot async gRPC, as shipped",
}


@dataclass(frozen=True)
class Size:
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def config(self) -> dict[str, Any]:
        return {"height": self.height, "width": self.width}


def run(bench: Bench) -> Result:
    sizes = [Size(*size) for size in (SIZES[-1:] if bench.quick else SIZES)]
    measured: dict[str, dict[str, dict[str, Series]]] = {}
    notes = [] if bench.peer_python else ["LeRobot and the websocket server were left out: no --peers."]
    for size in sizes:
        if measured and time.monotonic() > bench.until:
            notes.append(f"2 x {size.name} was left out: the time was up.")
            continue
        with bench.fresh() as fresh:
            measured[size.name] = _measure(fresh, size, complete=size is sizes[0])
    goals = _goals(measured[sizes[0].name]["back to back"], sizes[0].name)
    data: dict[str, Any] = {
        size: {pace: {name: one.summary() for name, one in series.items()} for pace, series in paces.items()}
        for size, paces in measured.items()
    }
    tables = {f"Distributed overhead, 2 x {size}": _table(paces) for size, paces in data.items()}
    tables["Where ours goes, median ms"] = _stages(data[sizes[0].name]["back to back"])
    first = sizes[0]
    costs = step_costs(bench.folder(first.height, first.width), first.height, first.width, bench.times(200, 20))
    tables[f"Python's share at 2 x {first.name}, each step alone"] = [
        ["step", "µs of its thread"],
        *([step, f"{cost:.0f}"] for step, cost in costs.items()),
        ["together", f"{sum(costs.values()):.0f}"],
    ]
    data |= {"ratios": {goal.name: goal.value for goal in goals}, "steps_us": costs}
    return Result(data, tables, goals, notes)


def _measure(bench: Bench, size: Size, complete: bool) -> dict[str, dict[str, Series]]:
    systems = _ours(bench, size, complete) | _floors(bench, size)
    if bench.peer_python:
        systems |= _peers(bench, size, complete)
    rounds = {name: max(3, bench.times(FEWER.get(name, ROUNDS), 3)) for name in systems}
    repeats = bench.times(11 if complete else 7)
    result = {"back to back": interleave(systems, repeats, rounds, until=bench.until)}
    if complete:
        paced = {name: systems[name] for name in PACED if name in systems}
        result["at 30 Hz"] = interleave(
            paced, bench.times(5), dict.fromkeys(paced, bench.times(15, 3)), PACED_S, warm=0, until=bench.until
        )
    return result


def _ours(bench: Bench, size: Size, complete: bool) -> dict[str, Run]:
    folder = bench.folder(size.height, size.width)
    systems: dict[str, Run] = {}
    for floats in (False, True):
        environment = bench.environment(bench.domain())
        bench.engine(folder, constant(floats), environment)
        device = bench.worker("device", {"folder": str(folder), **size.config}, environment)
        device.ready()
        if floats:
            systems["u8 + float"] = mode_of(device, "u8")
        else:
            codecs = ("u8", "jpeg:90", "f16", "f32") if complete else ("u8", "jpeg:90")
            systems |= {codec: mode_of(device, codec) for codec in codecs}
            shared = {"folder": str(folder), "shared_memory": str(DEFAULT_DIRECTORY), **size.config}
            same_host = bench.worker("device", shared, environment)
            same_host.ready()
            systems["u8, shared memory"] = mode_of(same_host, "u8")
    return systems


def _floors(bench: Bench, size: Size) -> dict[str, Run]:
    bytes_each_way = {"there": picture_bytes(size.height, size.width) + 4 * STATE_DIM, "back": REPLY_BYTES}
    environment = bench.environment(bench.domain())
    bench.worker("echo", {"role": "server", **bytes_each_way}, environment).ready()
    echo = bench.worker("echo", {"role": "client", **bytes_each_way}, environment)
    echo.ready()
    tcp = bench.clients({"tcp": ("tcp", bytes_each_way)})["tcp"]
    return {"dds": mode_of(echo), "tcp": mode_of(tcp)}


def _peers(bench: Bench, size: Size, complete: bool) -> dict[str, Run]:
    lerobot = {"folder": str(bench.folder(size.height, size.width)), **size.config}
    peers: dict[str, tuple[str, dict[str, Any]]] = {
        "websocket": ("websocket", size.config),
        "lerobot": ("lerobot_async", {**lerobot, "floor_s": 0.0}),
    }
    if complete:
        peers["websocket float32"] = ("websocket", {**size.config, "dtype": "float32"})
        peers["lerobot as shipped"] = ("lerobot_async", {**lerobot, "floor_s": None})
    return {name: mode_of(client) for name, client in bench.clients(peers).items()}


def _goals(series: dict[str, Series], size: str) -> list[Goal]:
    return [
        Goal(f"distributed overhead at 2 x {size}: {ours} / {theirs}", ratio(series[ours], series[theirs]), limit)
        for ours, theirs, limit in GOALS
        if ours in series and theirs in series
    ]


def _table(paces: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    back_to_back = paces["back to back"]
    paced = paces.get("at 30 Hz", {})
    rows = [["", "median ms", "p95", "p99", "at 30 Hz", "client CPU ms"]]
    for name, own in sorted(back_to_back.items(), key=lambda item: item[1]["median_ms"]):
        at_rate = f"{paced[name]['median_ms']:.2f}" if name in paced else ""
        numbers = [f"{own[key]:.2f}" for key in ("median_ms", "p95_ms", "p99_ms")]
        rows.append([LABELS[name], *numbers, at_rate, f"{own['cpu_ms']:.2f}"])
    return rows


def _stages(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    stages = ("preprocess", "wire", "decode", "queue", "inference", "encode", "postprocess", "total")
    rows = [["", *stages]]
    for name, own in summaries.items():
        if "wire" in own["stages_ms"]:
            rows.append([LABELS[name], *(f"{own['stages_ms'].get(stage, 0.0):.3f}" for stage in stages)])
    return rows
