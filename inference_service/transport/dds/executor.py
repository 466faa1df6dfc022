"""Callback groups: one thread each, waiting for data of its readers and for its timers.

A group without readers waits on a Python event instead of DDS: that one sleeps on the monotonic clock with
every version of Cyclone (0.10 waits on the wall clock, which steps when a robot without a battery-backed
clock finds its time server). So a control loop in a group of its own is delayed by nothing but the scheduler.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from cyclonedds.core import Entity

from inference_service.transport.dds import native
from inference_service.transport.reporting import ErrorLog

_BATCH = 8  # samples of one reader before the others and the timers get their turn


class Source(Protocol):
    """Something that a group reads from."""

    def handle_one(self) -> bool:
        """Handle one waiting sample. False when there was none. Exceptions of user callbacks leave it."""
        ...


class FixedRateTimer:
    """Due at ``start + n * period`` on the monotonic clock; periods that were missed are skipped."""

    def __init__(self, group: Group, period_s: float, callback: Callable[[], None]) -> None:
        if not period_s > 0:
            raise ValueError(f"timer period is {period_s} s, wants more than 0")
        self._group = group
        self._period_ns = max(1, round(period_s * 1e9))
        self.callback = callback
        self.due_ns = time.monotonic_ns() + self._period_ns

    def advance(self) -> None:
        """Set ``due_ns`` to the first point of the grid that is not past."""
        late = time.monotonic_ns() - self.due_ns
        self.due_ns += self._period_ns * max(1, -(-late // self._period_ns))

    def cancel(self) -> None:
        self._group.remove_timer(self)


class Group:
    """One thread; callbacks of its readers and timers run on it one after the other."""

    def __init__(self, name: str, node: str, new_waitset: Callable[[], native.WaitSet], errors: ErrorLog) -> None:
        self.name = name
        self._new_waitset = new_waitset
        self._errors = errors
        self._lock = threading.Lock()
        self._waitset: native.WaitSet | None = None
        self._sources: dict[int, Source] = {}
        self._tokens = itertools.count(1)
        self._timers: list[FixedRateTimer] = []
        self._event = threading.Event()
        self._stopping = False
        # A daemon: a callback that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"{node}/{name}", daemon=True)
        self._thread.start()

    def add_reader(self, reader: Entity, source: Source) -> int:
        """Call ``source`` whenever ``reader`` holds samples; returns the token for :meth:`remove_reader`."""
        with self._lock:
            if self._waitset is None:
                self._waitset = self._new_waitset()
            token = next(self._tokens)
            self._sources[token] = source
            self._waitset.attach(reader, token)
        self._wake()
        return token

    def remove_reader(self, token: int) -> None:
        with self._lock:
            self._sources.pop(token, None)
            if self._waitset is not None:
                self._waitset.detach(token)

    def add_timer(self, period_s: float, callback: Callable[[], None]) -> FixedRateTimer:
        """Raises ValueError for a period that is not positive."""
        timer = FixedRateTimer(self, period_s, callback)
        self._timers = [*self._timers, timer]
        self._wake()
        return timer

    def remove_timer(self, timer: FixedRateTimer) -> None:
        self._timers = [other for other in self._timers if other is not timer]

    def stop(self) -> None:
        """Ask the thread to end. Returns at once."""
        self._stopping = True
        self._wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; whether it has ended. True on the group's own thread, which ends by itself."""
        if threading.current_thread() is self._thread:
            return True
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _wake(self) -> None:
        self._event.set()
        waitset = self._waitset
        if waitset is not None:
            waitset.wake()

    def _run(self) -> None:
        while not self._stopping:
            self._run_due_timers()
            for token in self._wait():
                self._drain(token)

    def _wait(self) -> list[int]:
        timeout_ns = self._time_to_next_timer()
        waitset = self._waitset
        if waitset is not None:
            return waitset.wait(timeout_ns)
        self._event.wait(None if timeout_ns == native.FOREVER_NS else timeout_ns / 1e9)
        self._event.clear()
        return []

    def _time_to_next_timer(self) -> int:
        if self._stopping:
            return 0
        due = min((timer.due_ns for timer in self._timers), default=None)
        return native.FOREVER_NS if due is None else max(0, due - time.monotonic_ns())

    def _run_due_timers(self) -> None:
        for timer in self._timers:
            if timer.due_ns <= time.monotonic_ns() and timer in self._timers and not self._stopping:
                self._guarded(timer.callback)
                timer.advance()

    def _drain(self, token: int) -> None:
        for _ in range(_BATCH):
            source = self._sources.get(token)
            if source is None or self._stopping or not self._guarded(source.handle_one):
                return
            self._run_due_timers()

    def _guarded(self, callback: Callable[[], object]) -> bool:
        """Run it; whether to go on with the same source."""
        try:
            return callback() is not False
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._errors.report(f"{self._thread.name}: {_describe(callback)}", error)
            return True


def _describe(callback: Callable[[], object]) -> str:
    owner = getattr(callback, "__self__", None)
    return str(getattr(owner, "label", None) or getattr(callback, "__qualname__", callback))


class Executor:
    """The groups of a node, made when they are first named."""

    def __init__(self, node: str, new_waitset: Callable[[], native.WaitSet], errors: ErrorLog) -> None:
        self._node = node
        self._new_waitset = new_waitset
        self._errors = errors
        self._lock = threading.Lock()
        self._groups: dict[str, Group] = {}

    def group(self, name: str) -> Group:
        with self._lock:
            if name not in self._groups:
                self._groups[name] = Group(name, self._node, self._new_waitset, self._errors)
            return self._groups[name]

    def stop(self) -> None:
        with self._lock:
            for group in self._groups.values():
                group.stop()

    def join(self, deadline: float) -> list[str]:
        """Wait until ``deadline`` (monotonic seconds) for the threads; names of the groups that did not end."""
        return [name for name, group in self._groups.items() if not group.join(deadline - time.monotonic())]
