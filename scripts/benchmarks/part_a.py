"""(a) What the pipeline adds to a policy's own time in one process: ours beside LeRobot's ``predict_action``.

Two uint8 cameras and a state in, a chunk in robot units out, with a model that costs nothing. Both make the model's
float32 tensors of the pictures: LeRobot before its model, ours as the CPU backends do within theirs, so it counts.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench, Result, mode_of
from benchmarks.measure import Goal, Run, interleave, ratio

SIZES = ((480, 640), (96, 128))
LABELS = {
    "ours": "ours, float32 tensors made for a CPU model",
    "ours, uint8": "ours, up to a model that takes uint8 (compiled boards, GPU)",
    "lerobot": "LeRobot predict_action",
    "lerobot, chunk": "LeRobot predict_action, whole chunk post-processed",
}


def run(bench: Bench) -> Result:
    data: dict[str, Any] = {}
    tables: dict[str, list[list[str]]] = {}
    goals: list[Goal] = []
    for height, width in SIZES[-1:] if bench.quick else SIZES:
        name = f"{height}x{width}"
        with bench.fresh() as fresh:
            systems = _systems(fresh, height, width)
            series = interleave(systems, bench.times(15), dict.fromkeys(systems, bench.times(60, 3)), until=bench.until)
        data[name] = {system: one.summary() for system, one in series.items()}
        tables[f"Over the bare policy call, 2 x {name}"] = _table(data[name])
        if "lerobot" in series:
            value = ratio(series["ours"], series["lerobot"])
            goals.append(Goal(f"monolithic overhead at 2 x {name}: ours / LeRobot's local path", value, 0.25))
    data["real model"] = _real_model(bench)
    notes = [] if bench.peer_python else ["LeRobot was left out: no --peers."]
    return Result(data, tables, goals, [*notes, _say(data["real model"])])


def _systems(bench: Bench, height: int, width: int) -> dict[str, Run]:
    config = {"folder": str(bench.folder(height, width)), "height": height, "width": width}
    ours = bench.worker("local", config, bench.environment(0))
    ours.ready()
    systems = {"ours": mode_of(ours, "float"), "ours, uint8": mode_of(ours, "uint8")}
    if bench.peer_python:
        for name, chunk in (("lerobot", False), ("lerobot, chunk", True)):
            peer = bench.peer("lerobot_local", {**config, "chunk": chunk})
            peer.ready()
            systems[name] = mode_of(peer)
    return systems


def _real_model(bench: Bench) -> dict[str, Any]:
    """The demonstration's policy on its backend: the share of the pipeline in a whole inference."""
    with bench.fresh() as fresh:
        worker = fresh.worker("local", {"device": bench.device}, fresh.environment(0))
        info = worker.ready()
        summary = interleave({"": mode_of(worker, "real")}, bench.times(5), {"": bench.times(30, 5)})[""].summary()
    return {**info, **summary}


def _say(real: dict[str, Any]) -> str:
    stages = real["stages_ms"]
    return (
        f"The demonstration's policy on {real['backend']} ({real['device']}): {stages['total']:.2f} ms an inference, "
        f"of which {stages['outside']:.3f} ms before and after the backend's call (medians, full-size cameras resized)."
    )


def _table(summaries: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["", "median ms", "p95", "CPU ms"]]
    for name, own in sorted(summaries.items(), key=lambda item: item[1]["median_ms"]):
        rows.append([LABELS[name], f"{own['median_ms']:.3f}", f"{own['p95_ms']:.3f}", f"{own['cpu_ms']:.3f}"])
    return rows
