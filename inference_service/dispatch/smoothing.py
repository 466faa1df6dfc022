"""Temporal ensembling of overlapping chunks (ACT, https://arxiv.org/abs/2304.13705, algorithm 2).

The action at a tick is the weighted mean of every prediction made for that tick, oldest first, with weights
``w_i = exp(-coeff * i)``: what LeRobot's ``ACTTemporalEnsembler`` computes step by step, for chunks that may
come late and at any distance. The predictions themselves are kept, not their running mean, so that one too
old to be used (promise P1) leaves the mean without a trace.
"""

from __future__ import annotations

import numpy as np

from inference_service.dispatch.queue import Chunk, Step

DEFAULT_COEFF = 0.01
"""ACT's own."""
GREATEST_COEFF = 1000.0
"""Beyond it, either way, a single prediction is all that counts."""


class TemporalEnsembler:
    """An :class:`~inference_service.dispatch.queue.ActionPlan` that blends overlapping chunks.

    ``coeff`` above 0 gives older predictions more weight, below 0 newer ones, 0 all the same; at most
    :data:`GREATEST_COEFF` either way.
    """

    def __init__(self, coeff: float = DEFAULT_COEFF, chunks: tuple[Chunk, ...] = ()) -> None:
        self._coeff = coeff
        self._chunks = list(chunks)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(self._chunks)

    def push(self, chunk: Chunk, next_tick: int) -> int:
        left = min(chunk.end_tick - next_tick, len(chunk.actions))
        if left <= 0:
            return 0
        self._chunks.append(chunk)
        return left

    def take(self, tick: int) -> Step | None:
        self._chunks = [chunk for chunk in self._chunks if chunk.end_tick > tick]
        due = [chunk for chunk in self._chunks if chunk.first_tick <= tick]
        if not due:
            return None
        rows = np.stack([chunk.actions[tick - chunk.first_tick] for chunk in due])
        exponents = -self._coeff * np.arange(len(due))
        weights = np.exp(exponents - exponents.max())  # the same weights but for a factor, and none overflows
        action = weights @ rows / weights.sum()
        newest = due[-1]
        oldest_ns = min(chunk.observed_ns for chunk in due)
        return Step(action, oldest_ns, newest.request_id, tick - newest.first_tick)

    def expire(self, now_ns: int) -> int:
        before = len(self._chunks)
        self._chunks = [chunk for chunk in self._chunks if now_ns <= chunk.expires_ns]
        return before - len(self._chunks)

    def remaining(self, tick: int) -> int:
        if not self._chunks:
            return 0
        end = max(chunk.end_tick for chunk in self._chunks)
        first = min(chunk.first_tick for chunk in self._chunks)
        return max(0, end - max(tick, first))

    def clear(self) -> None:
        self._chunks.clear()
