"""What a device carries from one request to the next: its session, and the chunk that the robot is executing.

Real-time chunking (Black et al. 2025; LeRobot's ``lerobot/rollout/inference/rtc.py``, 0.6.1): each request tells the
policy what is left of the chunk before, so that the new one goes on from it. Action ``i`` of a chunk is due ``i``
periods after its observation, which is how the dispatcher plays it: at the next observation the first ``elapsed``
actions are done. What was held instead is then past as well, so after a hold, a gap or a reset nothing is left, and the
policy is told of nothing.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_service.core.batch import Float32
from inference_service.core.policy import InferenceContext, LeftOver
from inference_service.core.reanchor import Reanchor
from robot_config.schema import RtcConfig

_DELAYS_KEPT = 10
_OUR_IDS = re.compile(r"([0-9a-f]{8}(?:\.\d+)?)-\d+")


def episode_of(inference_id: str) -> str | None:
    """What our dispatcher's requests have in common from one reset to the next; None for ids of another form."""
    match = _OUR_IDS.fullmatch(inference_id)
    return match[1] if match else None


@dataclass(frozen=True, eq=False)
class _Chunk:
    """``normalised`` as the policy gave it, ``absolute`` as the postprocessor made it, both (steps, action_dim)."""

    stamp_ns: int
    normalised: Float32
    absolute: Float32


class Continuity:
    """Makes the :class:`InferenceContext` of each request. Any thread may call it, one request at a time.

    ``period_ns``: time that one action lasts. ``reanchor``: for policies whose actions are relative to the state they
    were asked for.
    """

    def __init__(
        self,
        rtc: RtcConfig,
        period_ns: int,
        seed: int | None,
        reanchor: Reanchor | None,
        logger: logging.Logger,
    ) -> None:
        self._rtc = rtc
        self._period_ns = period_ns
        self._seed = seed
        self._reanchor = reanchor
        self._logger = logger
        self._lock = threading.Lock()
        self._chunk: _Chunk | None = None
        self._delays_ms: deque[float] = deque(maxlen=_DELAYS_KEPT)
        self._episode: str | None = None
        self._told = False
        self.session = uuid.uuid4().hex[:16]

    def begin(self, inference_id: str) -> str | None:
        """Take note of whose request this is; the session that ended with it, where the dispatcher was reset."""
        episode = episode_of(inference_id)
        with self._lock:
            before, self._episode = self._episode, episode
            if before is None or before == episode:
                return None
            ended, self.session = self.session, uuid.uuid4().hex[:16]
            self._chunk = None
            return ended

    def context(self, stamp_ns: int, prepared: Mapping[str, Any], supports_rtc: bool) -> InferenceContext:
        """For an observation of ``stamp_ns``, prepared with the context ``prepared``."""
        with self._lock:
            chunk, session = self._chunk, self.session
        left_over = None
        if self._rtc.enabled and not supports_rtc:
            self._say_once("rtc.enabled, but the policy on this engine takes no left-over actions: without")
        elif self._rtc.enabled and chunk is not None:
            left_over = self._left_over(chunk, stamp_ns, prepared)
        return InferenceContext(session, self._seed, left_over, stamp_ns)

    def remember(
        self, session: str, stamp_ns: int, normalised: Float32, absolute: Float32, round_trip_ms: float
    ) -> None:
        """A chunk that goes to the robot now. ``round_trip_ms``: from its observation being taken to this moment."""
        with self._lock:
            self._delays_ms.append(round_trip_ms)
            if session == self.session:
                self._chunk = _Chunk(stamp_ns, normalised, absolute)

    def forget(self) -> None:
        """Whatever the robot does next, it is not the rest of the last chunk."""
        with self._lock:
            self._chunk = None

    def _left_over(self, chunk: _Chunk, stamp_ns: int, prepared: Mapping[str, Any]) -> LeftOver | None:
        elapsed = round((stamp_ns - chunk.stamp_ns) / self._period_ns)
        if not 0 <= elapsed < len(chunk.normalised):
            return None
        actions: Float32 | None = chunk.normalised[elapsed:]
        if self._reanchor is not None:
            actions = self._reanchor(chunk.absolute[elapsed:], prepared)
        if actions is None:
            self._say_once("rtc.enabled, but LeRobot itself runs this policy's relative actions: without")
            return None
        with self._lock:
            slowest_ms = max(self._delays_ms, default=0.0)
        delay = math.ceil(slowest_ms * 1e6 / self._period_ns)
        return LeftOver(actions, delay, self._rtc.execution_horizon)

    def _say_once(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._logger.warning("%s", text)
