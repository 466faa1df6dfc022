"""What the dispatcher tells on ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference_service.dispatch.report import State, Stats
from inference_service.dispatch.timing import TickTimes
from inference_service.nodes.diagnostics import Level

STARVED_MS = 500.0
"""Without an action for longer the status is ERROR (promise P5: within a second); for less it is a slow answer."""
STALLED_NS = 1_000_000_000
"""A control tick that has not run for longer is an ERROR."""


@dataclass(frozen=True)
class Outlook:
    """What is to be judged: ``stats`` as of the last tick, looked at ``now_ns`` (monotonic).

    ``rate_problem`` and ``send_failure`` are sentences, empty where all is well.
    """

    stats: Stats
    now_ns: int
    rate_problem: str = ""
    send_failure: str = ""


def judge(outlook: Outlook) -> tuple[Level, str]:
    """The level and, most urgent first, everything behind it."""
    errors = _errors(outlook)
    warnings = _warnings(outlook)
    if errors:
        return Level.ERROR, "; ".join(errors + warnings)
    if warnings:
        return Level.WARN, "; ".join(warnings)
    return Level.OK, "dispatching"


def _errors(outlook: Outlook) -> list[str]:
    stats = outlook.stats
    errors = []
    stalled_ns = outlook.now_ns - stats.at_ns
    if stalled_ns > STALLED_NS:
        errors.append(f"the control tick has not run for {stalled_ns / 1e9:.1f} s")
    if stats.state is State.SAFE:
        latched = ", latched: call ~/reset to re-arm" if stats.latched else ""
        errors.append(f"safe behaviour: no action for {stats.starved_ms / 1e3:.1f} s{latched}")
    elif stats.starved_ms >= STARVED_MS:
        errors.append(f"no action for {stats.starved_ms / 1e3:.1f} s")
    if outlook.send_failure:
        errors.append(outlook.send_failure)
    if stats.obstacle:
        errors.append(stats.obstacle)
    elif stats.rival:
        errors.append(f"another node sends commands on {stats.rival}: stop one of the two")
    if stats.consecutive_failures:
        errors.append(stats.last_error)
    elif stats.counters.inferences and not stats.server_ready:
        errors.append("inference server is gone")
    return errors


def _warnings(outlook: Outlook) -> list[str]:
    stats = outlook.stats
    warnings = []
    if not stats.counters.inferences and not stats.consecutive_failures:
        waiting_for = "the first inference" if stats.server_ready else "the inference server"
        warnings.append(f"waiting for {waiting_for}")
    elif stats.state is State.HOLDING and stats.starved_ms < STARVED_MS:
        warnings.append("holding: the next actions are late")
    if outlook.rate_problem:
        warnings.append(outlook.rate_problem)
    return warnings


def values(stats: Stats, times: TickTimes, period_ms: float) -> dict[str, str]:
    """The numbers of a status, as ROS wants them. Totals are since the start."""
    counters = stats.counters
    return {
        "state": stats.state.value,
        "latched": str(stats.latched).lower(),
        "server_ready": str(stats.server_ready).lower(),
        "queue": str(stats.queue),
        "chunk_size": str(stats.chunk_size),
        "inferences": str(counters.inferences),
        "avg_latency_ms": f"{stats.avg_latency_ms:.1f}",
        "actions": str(counters.actions),
        "hold_ticks": str(counters.hold_ticks),
        "starved_ms": f"{stats.starved_ms:.0f}",
        "clamped": str(sum(stats.clamped.values())),
        "clamped_joints": _by_joint(stats.clamped),
        "velocity_limited": str(sum(stats.slowed.values())),
        "velocity_limited_joints": _by_joint(stats.slowed),
        "rejected_chunks": str(counters.rejected_chunks),
        "expired_chunks": str(counters.expired_chunks),
        "stale_chunks": str(counters.stale_chunks),
        "late_results": str(counters.late_results),
        "duplicate_results": str(counters.duplicate_results),
        "foreign_results": str(counters.foreign_results),
        "failures": str(counters.failures),
        "inference_timeouts": str(counters.inference_timeouts),
        "bad_joint_states": str(counters.bad_joint_states),
        "tick_period_ms": f"{period_ms:.3f}",
        "tick_p50_ms": f"{times.p50_ms:.3f}",
        "tick_p99_ms": f"{times.p99_ms:.3f}",
        "tick_p999_ms": f"{times.p999_ms:.3f}",
        "tick_max_ms": f"{times.max_ms:.3f}",
        "observation_age_ms": f"{stats.observation_age_ms:.1f}",
        "last_error": stats.last_error,
    }


def _by_joint(counts: Mapping[str, int]) -> str:
    """``pan:3 lift:1``."""
    return " ".join(f"{joint}:{count}" for joint, count in counts.items())
