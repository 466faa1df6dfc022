"""Signals that ask a process to stop, to be waited for on its main thread.

Not a ``threading.Event``: Python runs a signal's handler between two instructions of the main thread, so that one which
comes while the main thread holds the event's own lock waits for that lock for ever. ``SimpleQueue.put`` may be
re-entered.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, ``docker stop`` and a terminal that was closed."""

_Handler = Callable[[int, "FrameType | None"], Any] | int | None


class StopSignals:
    """Set once and for all, by a signal or by :meth:`set`."""

    def __init__(self) -> None:
        self._set = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Safe in a signal handler, also in one that interrupts another."""
        self._set = True
        self._woken.put(None)

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float) -> bool:
        """Whether it is set, at once or within ``timeout`` seconds."""
        if not self._set:
            try:
                self._woken.get(timeout=timeout)
            except Empty:
                return self._set
            self._woken.put(None)  # for whoever else waits
        return True

    def listen(self, *numbers: signal.Signals) -> dict[signal.Signals, _Handler]:
        """Be set by these signals from now on; their handlers before. Main thread only."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.set()

        return {number: signal.signal(number, on_signal) for number in numbers}


@contextmanager
def stop_signals(*numbers: signal.Signals) -> Iterator[StopSignals]:
    """Listens to signals inside the block; their handlers are put back after it. Main thread only."""
    stop = StopSignals()
    previous = stop.listen(*numbers)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
