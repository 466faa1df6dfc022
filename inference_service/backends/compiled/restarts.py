"""How often something broken may be started again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class RestartBudget:
    """At most ``limit`` restarts within any ``window_s`` seconds; what breaks faster than that is not repaired
    by starting it, and starting it holds up whoever waits."""

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.window_s = window_s
        self._clock = clock
        self._starts: deque[float] = deque(maxlen=max(limit, 1))

    def spend(self) -> bool:
        """Count one restart. False, and nothing counted, where the budget is used up."""
        now = self._clock()
        while self._starts and now - self._starts[0] >= self.window_s:
            self._starts.popleft()
        if len(self._starts) >= self.limit:
            return False
        self._starts.append(now)
        return True

    def __str__(self) -> str:
        return f"{self.limit} restarts in {self.window_s:g} s"
