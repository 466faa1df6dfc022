"""How late this machine lets a thread run that does nothing but sleep: the yardstick for the dispatcher's tick."""

from __future__ import annotations

import threading
import time

from inference_service.demo.events import MachineTick
from inference_service.dispatch.timing import TickClock


class Metronome:
    """Wakes every ``period_s`` on the monotonic clock and measures the intervals, as the dispatcher does."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._clock = TickClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="metronome", daemon=True)

    def __enter__(self) -> Metronome:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _beat(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._clock.record(time.monotonic_ns())
            missed = max(0.0, time.monotonic() - due) // self._period_s
            due += self._period_s * (1 + missed)

    def look(self, now: float) -> MachineTick:
        """What was measured since the start."""
        return MachineTick(now, self._clock.times().p99_ms)
