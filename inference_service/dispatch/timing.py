"""How regular the control tick is, in bounded memory (promise P4 is measured here)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MICROSECOND_NS = 1_000
BIN_NS = 10 * MICROSECOND_NS
BINS = 100_000
"""Intervals up to 1 s in steps of 10 µs; longer ones share the last bin."""


@dataclass(frozen=True)
class TickTimes:
    """Intervals between ticks since the start, milliseconds; 0 before the second tick. ``max_ms`` is exact."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class TickClock:
    """A histogram of the intervals between ticks. Written by one thread; another may read it."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.uint32)
        self._last_ns: int | None = None
        self._max_ns = 0

    def record(self, now_ns: int) -> None:
        """A tick begins at ``now_ns`` (monotonic)."""
        if self._last_ns is not None:
            interval = now_ns - self._last_ns
            self._counts[min(interval // BIN_NS, BINS - 1)] += 1
            self._max_ns = max(self._max_ns, interval)
        self._last_ns = now_ns

    def times(self) -> TickTimes:
        """Percentiles are the upper edge of their bin: never better than the truth."""
        total = np.cumsum(self._counts, dtype=np.int64)
        if not total[-1]:
            return TickTimes(0.0, 0.0, 0.0, 0.0)
        edges = [(int(np.searchsorted(total, np.ceil(q * total[-1]))) + 1) * BIN_NS / 1e6 for q in (0.5, 0.99, 0.999)]
        longest = self._max_ns / 1e6
        p50, p99, p999 = (min(edge, longest) for edge in edges)
        return TickTimes(p50, p99, p999, longest)
