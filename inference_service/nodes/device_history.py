"""Which moments a policy looks back on: the control ticks before the observation, as in its training.

LeRobot's policies with ``n_obs_steps`` above 1 learn from, and its ``select_action`` fills its queues with, the
observations of neighbouring control ticks. A device that asks for a chunk now and then brings these observations with
each request, out of what its streams keep. At the beginning of a session there is nothing before the first observation,
which LeRobot then repeats.
"""

from __future__ import annotations

import threading

SLACK_NS = 250_000_000
"""Streams keep so much more than the policy looks back: a goal may be some time on its way."""


class LookBack:
    """``count`` observations, ``period_ns`` apart, before each that a goal asks for. Thread-safe."""

    def __init__(self, count: int, period_ns: int) -> None:
        self.count = count
        self.period_ns = period_ns
        self._lock = threading.Lock()
        self._session = ""
        self._began_ns = 0

    @property
    def keep_ns(self) -> int:
        """How much of their past the streams have to keep; nothing where the policy does not look back."""
        return self.count * self.period_ns + SLACK_NS if self.count else 0

    def stamps(self, session: str, stamp_ns: int, observed_ns: int, count: int) -> list[int]:
        """Stamps of at most ``count`` earlier observations, oldest first, none before the session's first observation.

        ``stamp_ns`` is the goal's; ``observed_ns`` the latest sample's that was taken for it, which may be a little
        younger where clocks differ.
        """
        with self._lock:
            if session != self._session or stamp_ns < self._began_ns:
                self._session, self._began_ns = session, max(stamp_ns, observed_ns)
            began_ns = self._began_ns
        wanted = [stamp_ns - ticks * self.period_ns for ticks in range(min(count, self.count), 0, -1)]
        if not wanted or began_ns >= stamp_ns:
            return []
        first = [began_ns] if wanted[0] <= began_ns else []
        return first + [stamp for stamp in wanted if stamp > began_ns]
