"""The yardstick for the tick: what a thread measures that only sleeps."""

from __future__ import annotations

import time

from inference_service.demo.metronome import Metronome


def test_measures_its_own_intervals() -> None:
    with Metronome(0.01) as metronome:
        deadline = time.monotonic() + 10
        while metronome.look(0.0).p99_ms == 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        seen = metronome.look(4.0)
    assert seen.t == 4.0
    assert seen.p99_ms > 5.0


def test_stops_at_once() -> None:
    metronome = Metronome(3600.0)
    with metronome:
        pass
    assert not metronome._thread.is_alive()
