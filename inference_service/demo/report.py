"""``report.json``: what a run has done, in figures.

===================== ========================================================================================
key                   meaning
===================== ========================================================================================
seconds               from the first command to the end of the run
inferences            chunks that the device node handed over
actions               commands that followed a chunk: the messages seen on the command topic, less the holds
hold_ticks            the dispatcher's own count since its start
hold_ticks_after_5s   holds from five seconds after the first command on
tick_ms               the dispatcher's tick interval: its period, and what it measured since its start
observed_tick_ms      the same on the stream since the first command, as the observer saw it
machine               the same interval's p99 of a thread that only sleeps, and the cores that others kept busy:
                      where either is high, a late tick shows nothing and P4 is not judged
cubes                 of the simulated robot's task: cubes ``done`` with (reached, or too slow), and those ``reached``;
                      null on another robot
latency_ms            of one inference and its stages; null where a stage never came up
log_lines             the documented lines: seen or not, or "not applicable" in this mode
promises              P1 to P10: "kept", "not observed", or the breach
processes             resident memory at the end; seconds from start to the first healthy diagnostics (null: never)
failures              why the run does not count as good; empty when it does
===================== ========================================================================================
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inference_service import __version__
from inference_service.demo.promises import broken_promises
from inference_service.demo.recording import Recording

STAGES = ("total", "preprocess", "wire", "queue", "inference", "postprocess")


@dataclass(frozen=True)
class RunFacts:
    """What the runner knows and the network does not show. Times on the observer's monotonic clock.

    ``started``: process name to the time it was started. ``died``: what a process that ended by itself has left to say.
    """

    mode: str
    device: str
    robot: str
    policy: str
    domain: int
    ended_at: float
    started: Mapping[str, float]
    log_lines: Mapping[str, bool | str]
    died: Sequence[str] = ()
    problems: Sequence[str] = field(default_factory=tuple)


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """``p50`` and ``p99``, rounded to a microsecond where values are milliseconds; null without values."""
    if not values:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(np.asarray(values, np.float64), (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def build_report(recording: Recording, facts: RunFacts) -> dict[str, Any]:
    """The report of a run; its keys are the table above."""
    return recording.read(lambda r: _build(r, facts))


def _build(r: Recording, facts: RunFacts) -> dict[str, Any]:
    report = {
        "mode": facts.mode,
        "seconds": round(facts.ended_at - r.first_command_at, 2) if r.first_command_at is not None else 0.0,
        "inferences": r.inferences,
        "actions": r.actions(),
        "hold_ticks": int(r.dispatcher("hold_ticks") or 0),
        "hold_ticks_after_5s": holds_after_settled(r),
        "tick_ms": tick_ms(r),
        "observed_tick_ms": observed_tick_ms(r),
        "machine": machine(r),
        "cubes": cubes(r),
        "latency_ms": {
            stage: percentiles([c.stages[stage] for c in r.chunks if stage in c.stages]) for stage in STAGES
        },
        "log_lines": dict(facts.log_lines),
        "promises": r.promises.verdicts(),
        "processes": _processes(r, facts),
        "version": __version__,
        "commit": commit(),
        "device": _computes_on(r, "device") or facts.device,
        "backend": _computes_on(r, "backend_type") or "unknown",
        "robot": facts.robot,
        "policy": facts.policy,
        "ros_domain_id": facts.domain,
    }
    report["failures"] = [*facts.problems, *failures(report, facts.died)]
    return report


def tick_ms(r: Recording) -> dict[str, float | None]:
    """The dispatcher's control tick in milliseconds, as it measured it itself."""
    keys = {"period": "tick_period_ms", "p50": "tick_p50_ms", "p99": "tick_p99_ms", "max": "tick_max_ms"}
    return {name: r.dispatcher(key) for name, key in keys.items()}


def observed_tick_ms(r: Recording) -> dict[str, float | None]:
    """The tick interval on the stream since the first command, milliseconds; null before the second tick."""
    seen = r.promises.ticks.seen
    figures = {"p50": seen.p50_ms, "p99": seen.p99_ms, "max": seen.max_ms}
    return {name: round(ms, 3) if seen.max_ms else None for name, ms in figures.items()}


def machine(r: Recording) -> dict[str, float | None]:
    """How busy this machine was besides."""
    seen = r.machine
    return {
        "sleeper_p99_ms": round(seen.sleeper_p99_ms, 3) if seen else None,
        "foreign_cores": round(seen.foreign_cores, 2) if seen else None,
    }


def cubes(r: Recording) -> dict[str, int] | None:
    """How often the arm came to the cube, as the simulated robot counts it."""
    status = r.health.get("sim_robot")
    done, reached = (status.number(key) if status else None for key in ("cubes", "cubes_reached"))
    return None if done is None or reached is None else {"done": int(done), "reached": int(reached)}


def holds_after_settled(r: Recording) -> int:
    """Ticks held from five seconds after the first command on."""
    status = r.health.get("action_dispatcher")
    if status is None or not r.settled(status.t):
        return 0
    return int((status.number("hold_ticks") or 0.0) - r.holds_at_settled)


def _computes_on(r: Recording, key: str) -> str:
    """``device`` or ``backend_type``: the engine's card says it, or the device node itself when it is the engine."""
    if r.card is not None:
        return r.card.values.get(key, "")
    node = r.health.get("act_inference_node")
    return node.values.get(key, "") if node else ""


def _processes(r: Recording, facts: RunFacts) -> list[dict[str, Any]]:
    rows = []
    for name, started in facts.started.items():
        seen, ready = r.resources.get(name), r.ready_at.get(name)
        rows.append(
            {
                "name": name,
                "rss_mb": round(seen.rss_mb, 1) if seen else None,
                "ready_s": round(ready - started, 2) if ready is not None else None,
                "imports_torch": seen.imports_torch if seen else None,
            }
        )
    return rows


def failures(report: Mapping[str, Any], died: Sequence[str] = ()) -> list[str]:
    """Why a run does not count as good: a process died, nothing moved, or a promise was broken."""
    found = list(died)
    if report["actions"] == 0:
        found.append("no action reached the robot")
    found.extend(f"{promise} broken: {text}" for promise, text in broken_promises(report["promises"]).items())
    return found


def commit() -> str:
    """The checkout's commit, or "unknown" where this is none or git is not installed."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """``report.json`` in ``folder``; refuses NaN, which is no JSON."""
    path = folder / "report.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path
