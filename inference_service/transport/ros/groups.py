"""Callback groups of the ``ros`` transport: a thread each, with timers on the monotonic clock.

rclpy's executor runs one wait loop for a whole node, and whatever it waits on shares its turns. So it only takes
messages; what is done with them, and every timer, runs here, and a control loop in a group of its own is delayed by
nothing but the scheduler.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

MAX_WAITING = 1000
"""Jobs that a group keeps; beyond, the oldest give way, as in DDS's own queues."""


class Timer:
    """Due at ``start + n * period``; periods that were missed are skipped."""

    def __init__(self, group: Group, period_s: float, callback: Callable[[], None]) -> None:
        if not period_s > 0:
            raise ValueError(f"timer period is {period_s} s, wants more than 0")
        self._group = group
        self._period_s = period_s
        self.callback = callback
        self.due_s = time.monotonic() + period_s

    def advance(self) -> None:
        late_s = time.monotonic() - self.due_s
        self.due_s += self._period_s * max(1.0, -(-late_s // self._period_s))

    def cancel(self) -> None:
        self._group.remove_timer(self)


class Group:
    """Runs jobs and timers one after the other. ``failed`` is told of every exception that leaves one."""

    def __init__(self, name: str, failed: Callable[[str, Exception], None]) -> None:
        self._name = name
        self._failed = failed
        self._jobs: deque[Callable[[], object]] = deque(maxlen=MAX_WAITING)
        self._timers: list[Timer] = []
        self._wake = threading.Condition()
        self._stopping = False
        # A daemon: a callback that hangs must not keep the process from ending.
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def post(self, job: Callable[[], object]) -> None:
        """Run ``job`` on the group's thread. Returns at once."""
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def add_timer(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """Raises ValueError for a period that is not positive."""
        timer = Timer(self, period_s, callback)
        with self._wake:
            self._timers = [*self._timers, timer]
            self._wake.notify()
        return timer

    def remove_timer(self, timer: Timer) -> None:
        with self._wake:
            self._timers = [other for other in self._timers if other is not timer]

    def stop(self) -> None:
        """Ask the thread to end; what waits is dropped. Returns at once."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _run(self) -> None:
        while not self._stopping:
            for timer in self._timers:
                if timer.due_s <= time.monotonic() and timer in self._timers and not self._stopping:
                    self._guarded(timer.callback)
                    timer.advance()
            job = self._next()
            if job is not None:
                self._guarded(job)

    def _next(self) -> Callable[[], object] | None:
        with self._wake:
            if not self._jobs and not self._stopping:
                due = min((timer.due_s for timer in self._timers), default=None)
                self._wake.wait(None if due is None else max(0.0, due - time.monotonic()))
            return self._jobs.popleft() if self._jobs and not self._stopping else None

    def _guarded(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._failed(f"{self._name}: {_describe(callback)}", error)


def _describe(callback: Callable[[], object]) -> str:
    owner = getattr(callback, "__self__", None)
    return str(getattr(owner, "label", None) or getattr(callback, "__qualname__", callback))
