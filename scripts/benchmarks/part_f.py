"""(f) The control tick while inference runs on the same cores: dispatcher, device node, engine, robot, each a process.

The queue always wants a new chunk, so the engine computes without a pause. Beside each run a process that only sleeps
to the same grid says what the machine takes from everyone.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.folders import DEMO_POLICY, ROBOT
from benchmarks.measure import Goal
from benchmarks.processes import Worker

LIMIT_MS = 2.0
REAL_TIME = 50


def run(bench: Bench) -> Result:
    seconds = 3.0 if bench.quick else 0.28 * bench.seconds
    plans: list[tuple[str, float, int | None]] = [("20 Hz", 20.0, None), ("50 Hz", 50.0, None)]
    if os.geteuid() == 0:
        plans.append((f"50 Hz, real_time_priority {REAL_TIME}", 50.0, REAL_TIME))
    environment = bench.environment(bench.domain())
    _start_stack(bench, environment)
    runs: dict[str, dict[str, float]] = {}
    for name, hz, priority in plans:
        config = {"hz": hz, "seconds": seconds}
        with bench.fresh() as fresh:
            sleeper = fresh.worker("tick", {**config, "role": "sleeper"}, environment)
            dispatcher = fresh.worker("tick", {**config, "priority": priority}, environment)
            sleeper.ready()
            dispatcher.ready()
            runs[name], runs[f"{name}, a sleeping process"] = _together(dispatcher, sleeper, seconds)
    goals = [
        Goal(f"tick p99.9 jitter while inference runs, {name}, ms", runs[name]["jitter_p999"], LIMIT_MS)
        for name, hz, _ in plans
        if hz == 50.0
    ]
    return Result({"runs": runs, "seconds": seconds}, {"Control tick": _table(runs)}, goals, _notes(plans))


def _start_stack(bench: Bench, environment: dict[str, str]) -> None:
    bench.engine(DEMO_POLICY, bench.device, environment)
    bench.worker("robot", {}, environment).ready()
    bench.node(
        "lerobot_policy_node",
        {"checkpoint": DEMO_POLICY, "robot_config_path": ROBOT, "execution_mode": "distributed"},
        environment,
    )


def _together(dispatcher: Worker, sleeper: Worker, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    found: dict[str, dict[str, Any]] = {}

    def run(name: str, worker: Worker) -> None:
        stages = worker.run(1, timeout_s=seconds + 30)["stages"]
        found[name] = {stage: round(values[0], 4) for stage, values in stages.items()}

    beside = threading.Thread(target=run, args=("sleeper", sleeper))
    beside.start()
    run("dispatcher", dispatcher)
    beside.join()
    return found["dispatcher"], found["sleeper"]


def _table(runs: dict[str, dict[str, float]]) -> list[list[str]]:
    rows = [["|interval - period|", "p50 ms", "p99", "p99.9", "max", "ticks", "inferences meanwhile"]]
    for name, own in runs.items():
        numbers = [f"{own[f'jitter_{mark}']:.2f}" for mark in ("p50", "p99", "p999", "max")]
        inferences = f"{own['inferences']:.0f}" if "inferences" in own else ""
        rows.append([name, *numbers, f"{own['ticks']:.0f}", inferences])
    return rows


def _notes(plans: list[tuple[str, float, int | None]]) -> list[str]:
    return [] if any(priority for _, _, priority in plans) else ["Real-time priority was left out: it needs root."]
