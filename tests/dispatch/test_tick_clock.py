"""The tick's own clock: true percentiles in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from inference_service.dispatch.timing import TickClock


def test_percentiles_of_intervals_within_ten_microseconds() -> None:
    rng = np.random.default_rng(1)
    intervals = rng.normal(50e6, 0.5e6, 5000).astype(np.int64)
    clock = TickClock()
    for t in np.concatenate([[0], np.cumsum(intervals)]):
        clock.record(int(t))
    times = clock.times()
    assert times.p50_ms == pytest.approx(np.percentile(intervals, 50) / 1e6, abs=0.02)
    assert times.p99_ms == pytest.approx(np.percentile(intervals, 99) / 1e6, abs=0.02)
    assert times.p999_ms == pytest.approx(np.sort(intervals)[4994] / 1e6, abs=0.02)
    assert times.max_ms == intervals.max() / 1e6


def test_a_stall_beyond_the_last_bin_keeps_its_length() -> None:
    clock = TickClock()
    for t in (0, 50_000_000, 30_050_000_000):
        clock.record(t)
    assert clock.times().max_ms == 30_000.0


def test_nothing_before_the_second_tick() -> None:
    clock = TickClock()
    clock.record(5)
    times = clock.times()
    assert (times.p50_ms, times.p99_ms, times.p999_ms, times.max_ms) == (0.0, 0.0, 0.0, 0.0)
