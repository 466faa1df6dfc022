"""Interleaved repeats of several systems, and what they amount to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Run = Callable[[int, float], Mapping[str, Any]]
"""(rounds, period in seconds) to ``{"stages": {name: [ms]}, "cpu_ms": …}``."""


@dataclass
class Series:
    """One system's measurements, repeat by repeat."""

    stages: list[Mapping[str, Sequence[float]]] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def medians(self, stage: str = "total") -> list[float]:
        """The median of each repeat."""
        return [median(repeat[stage]) for repeat in self.stages]

    def summary(self) -> dict[str, Any]:
        """Milliseconds: the median of the repeats' medians, and percentiles of all rounds together."""
        everything = sorted(value for repeat in self.stages for value in repeat["total"])
        return {
            "median_ms": round(median(self.medians()), 4),
            "repeats_ms": [round(value, 4) for value in self.medians()],
            **{f"p{name}_ms": round(percentile(everything, share), 4) for name, share in _SHARES.items()},
            "rounds": len(everything),
            "cpu_ms": round(median(self.cpu_ms), 4) if self.cpu_ms else None,
            "stages_ms": {stage: round(median(self.medians(stage)), 4) for stage in self.stages[0]},
        }


_SHARES = {"5": 0.05, "95": 0.95, "99": 0.99}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the ``ordered`` ones lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleave(
    systems: Mapping[str, Run],
    repeats: int,
    rounds: Mapping[str, int],
    period_s: float = 0.0,
    *,
    warm: int = 3,
    until: float = float("inf"),
) -> dict[str, Series]:
    """Measure each system ``repeats`` times in turn, so that a change of the machine's mood meets them all.

    ``warm`` rounds of each are run before and not counted. After ``until`` (monotonic) no third repeat is begun.
    """
    series = {name: Series() for name in systems}
    for run in systems.values() if warm else ():
        run(warm, 0.0)
    for turn in range(repeats):
        if turn > 1 and time.monotonic() > until:
            break
        for name, run in systems.items():
            result = run(rounds[name], period_s)
            series[name].stages.append(result["stages"])
            series[name].cpu_ms.append(result["cpu_ms"])
    return series


def ratio(ours: Series, theirs: Series) -> float:
    """Median over the repeats of our median by theirs: both from the same moment of the same run."""
    pairs = zip(ours.medians(), theirs.medians(), strict=True)
    return round(median(mine / other for mine, other in pairs), 4)


@dataclass(frozen=True)
class Goal:
    """``value`` should be at most ``limit`` (at least, where ``at_least``)."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    def to_json(self) -> dict[str, Any]:
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return {
            "goal": self.name,
            "value": round(self.value, 4),
            "limit": self.limit,
            "at_least": self.at_least,
            "met": met,
        }
