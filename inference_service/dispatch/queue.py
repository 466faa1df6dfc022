"""Which action is due at which control tick.

Ticks are numbered by the dispatcher, one number a control tick, whether that tick sent an action, held the
last one or sent nothing. Action ``i`` of a chunk asked for at tick ``r`` is due at tick ``r + i``: its
observation was taken at ``r``, and a policy's action ``i`` belongs ``i`` periods after its observation. A
late chunk therefore loses exactly the steps that have elapsed, those held after exhaustion included.

A chunk of a single action would always come one tick too late under that rule; its action is due at ``r + 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chunk:
    """The actions of one inference, placed on the dispatcher's ticks.

    ``actions`` is (steps, joints) float64 in robot units; ``first_tick`` is the tick at which row 0 is due;
    ``observed_ns`` and ``expires_ns`` are monotonic nanoseconds: when the observation was asked for, and the
    last moment at which an action computed from it may leave.
    """

    request_id: str
    first_tick: int
    observed_ns: int
    expires_ns: int
    actions: Float64

    @property
    def end_tick(self) -> int:
        """The first tick for which this chunk has no action."""
        return self.first_tick + len(self.actions)


@dataclass(frozen=True, eq=False)
class Step:
    """One action, ready for the safety gate.

    ``action`` is (joints,) float64. ``observed_ns`` is the oldest observation that went into it; ``request_id``
    and ``index`` say which row of which chunk is the newest that did.
    """

    action: Float64
    observed_ns: int
    request_id: str
    index: int


def first_due_tick(request_tick: int, steps: int) -> int:
    """The tick at which row 0 of a chunk of ``steps`` actions, asked for at ``request_tick``, is due."""
    return request_tick + 1 if steps == 1 else request_tick


class ActionPlan(Protocol):
    """What stands between a chunk's arrival and the tick at which its actions are due."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Chunks that still hold steps, oldest first."""
        ...

    def push(self, chunk: Chunk, next_tick: int) -> int:
        """Take a chunk in; returns how many of its steps are still to come at ``next_tick``.

        0 means that every step has elapsed: nothing was changed, least of all emptied.
        """
        ...

    def take(self, tick: int) -> Step | None:
        """The action due at ``tick``, and forget every step before it. ``None`` where none is due."""
        ...

    def expire(self, now_ns: int) -> int:
        """Forget every chunk whose ``expires_ns`` has passed (promise P1); returns the chunks forgotten."""
        ...

    def remaining(self, tick: int) -> int:
        """Steps due at ``tick`` or later."""
        ...

    def clear(self) -> None: ...


class ActionQueue:
    """The newest chunk wins: it replaces what was left of the one before."""

    def __init__(self, chunks: tuple[Chunk, ...] = ()) -> None:
        self._chunk = chunks[-1] if chunks else None

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return () if self._chunk is None else (self._chunk,)

    def push(self, chunk: Chunk, next_tick: int) -> int:
        left = min(chunk.end_tick - next_tick, len(chunk.actions))
        if left <= 0:
            return 0
        self._chunk = chunk
        return left

    def take(self, tick: int) -> Step | None:
        chunk = self._chunk
        if chunk is None or tick < chunk.first_tick:
            return None
        if tick >= chunk.end_tick:
            self._chunk = None
            return None
        index = tick - chunk.first_tick
        return Step(chunk.actions[index], chunk.observed_ns, chunk.request_id, index)

    def expire(self, now_ns: int) -> int:
        if self._chunk is None or now_ns <= self._chunk.expires_ns:
            return 0
        self._chunk = None
        return 1

    def remaining(self, tick: int) -> int:
        return 0 if self._chunk is None else max(0, self._chunk.end_tick - max(tick, self._chunk.first_tick))

    def clear(self) -> None:
        self._chunk = None
