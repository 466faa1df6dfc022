"""(e) How many robots one engine serves: 1 to 16 simulated devices at 20 Hz, with and without batching.

``full load``: each device asks again as soon as it has been answered, at most once a tick. ``as the demonstration``:
once in ten ticks, as a dispatcher does that refills a chunk of 50 at 40.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.folders import DEMO_POLICY
from benchmarks.measure import Goal
from benchmarks.processes import Worker

COUNTS = (1, 2, 4, 8, 16)
FULL, CALM = 1, 10
BATCHES = {"without batching": {"batch_max": 1}, "batched": {"batch_max": 8}}
FAIR = 0.67


def run(bench: Bench) -> Result:
    counts = (1, 2) if bench.quick else COUNTS
    seconds = max(1.0, 0.035 * bench.seconds) if not bench.quick else 1.0
    fleets = {name: _start(bench, seconds, parameters) for name, parameters in BATCHES.items()}
    loads: dict[str, dict[str, Any]] = {f"full load, {name}": {} for name in fleets}
    calm = f"as the demonstration, {list(fleets)[-1]}"
    loads[calm] = {}
    for count in counts:
        for name, fleet in fleets.items():
            loads[f"full load, {name}"][str(count)] = _drive(fleet, count, FULL, seconds)
        loads[calm][str(count)] = _drive(fleet, count, CALM, seconds)
    data = {"engine": info_of(fleets), "seconds": seconds, "loads": loads}
    return Result(data, {"Robots per engine": _table(loads)}, _goals(loads, str(min(8, counts[-1]))), [_say(data)])


def _start(bench: Bench, seconds: float, parameters: dict[str, Any]) -> Worker:
    environment = bench.environment(bench.domain())
    bench.engine(DEMO_POLICY, bench.device, environment, **parameters)
    worker = bench.worker("fleet", {"folder": str(DEMO_POLICY), "seconds": seconds}, environment)
    worker.ready(90.0)
    return worker


def info_of(fleets: dict[str, Worker]) -> dict[str, Any]:
    """What each engine's card said of itself."""
    return {name: fleet.info for name, fleet in fleets.items()}


def _drive(fleet: Worker, count: int, replan: int, seconds: float) -> dict[str, float]:
    stages = fleet.run(1, 0.0, f"{count}/{replan}", timeout_s=seconds + 30)["stages"]
    return {name: round(values[0], 4) for name, values in stages.items()}


def _goals(loads: dict[str, dict[str, Any]], count: str) -> list[Goal]:
    plain, batched = (loads[f"full load, {name}"] for name in BATCHES)
    gain = batched[count]["throughput"] / max(1e-9, plain[count]["throughput"])
    fairness = min(own["served_least_by_most"] for by_count in loads.values() for own in by_count.values())
    return [
        Goal(f"throughput of {count} robots, batched / not", gain, 2.0, at_least=True),
        Goal("least served robot / most served", fairness, FAIR, at_least=True),
    ]


def _say(data: dict[str, Any]) -> str:
    engines = ", ".join(f"{name}: {own}" for name, own in data["engine"].items())
    return f"The demonstration's policy, {data['seconds']:g} s for each row; engines: {engines}."


def _table(loads: dict[str, dict[str, Any]]) -> list[list[str]]:
    head = ["load", "robots", "inferences/s", "latency ms", "p99", "held ticks", "action age ms", "least/most served"]
    rows = [head]
    for name, by_count in loads.items():
        for count, own in by_count.items():
            numbers = (
                f"{own['throughput']:.1f}",
                f"{own['latency_p50']:.1f}",
                f"{own['latency_p99']:.1f}",
                f"{own['hold_ratio']:.1%}",
                f"{own['age_p50_ms']:.0f}",
                f"{own['served_least_by_most']:.2f}",
            )
            rows.append([name, count, *numbers])
    return rows
