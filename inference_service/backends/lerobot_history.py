"""What policies that look back remember, one history per session.

LeRobot keeps the last ``n_obs_steps`` observations in the policy object, one robot's only, and fills them tick by
tick. A request that brings them itself (:attr:`~inference_service.core.policy.InferenceContext.earlier`) needs nothing
kept. For others they are kept by session, and a session is as old as its requests: see :class:`Histories` for when a
history begins anew.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_SESSIONS = 32
DEFAULT_GAP_S = 1.0
_log = logging.getLogger(__name__)

Frame = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """``frames``: the latest observations, oldest first. ``stamp_ns``: of the latest one, on the device's clock.
    ``memory``: what else the family keeps from one call to the next."""

    frames: tuple[Frame, ...] = ()
    stamp_ns: int | None = None
    memory: Any = None


@dataclass
class Histories:
    """Histories of at most ``sessions`` sessions; beyond, the one that was silent longest is dropped.

    A policy was trained on observations that follow each other control tick by control tick, so what came long
    before is no history: a session begins anew where its last observation is more than ``gap_s`` older than the new
    one, or younger (its clock was set back: a simulation that started again). Requests without a stamp always
    follow each other. A history begins as LeRobot's does, with the first observation repeated.
    """

    length: int
    sessions: int = DEFAULT_SESSIONS
    gap_s: float = DEFAULT_GAP_S
    _kept: OrderedDict[str, History] = field(default_factory=OrderedDict)
    _warned: bool = False

    def look_up(self, session: str, stamp_ns: int | None) -> History:
        """What a request of ``session`` at ``stamp_ns`` may look back on: an empty history where it begins anew."""
        history = self._kept.get(session)
        if history is None or self._broken(session, history, stamp_ns):
            return History()
        return history

    def window(self, history: History, frame: Frame) -> list[Frame]:
        """``length`` frames, oldest first, the last of them ``frame``. Does not remember it."""
        before = history.frames or (frame,)
        return [*[before[0]] * self.length, *before, frame][-self.length :]

    def remember(self, session: str, frame: Frame, stamp_ns: int | None, history: History, memory: Any = None) -> None:
        """Make ``frame`` the latest of ``history``, and that the session's."""
        frames = (*history.frames, frame)[1 - self.length :] if self.length > 1 else ()
        self._kept[session] = History(frames, stamp_ns, memory)
        self._kept.move_to_end(session)
        while len(self._kept) > self.sessions:
            dropped, _ = self._kept.popitem(last=False)
            _log.warning("histories of %d sessions are kept: dropped that of session %s", self.sessions, dropped)

    def forget(self, session: str) -> None:
        self._kept.pop(session, None)

    def clear(self) -> None:
        self._kept.clear()

    def _broken(self, session: str, history: History, stamp_ns: int | None) -> bool:
        if stamp_ns is None or history.stamp_ns is None:
            return False
        gap_s = (stamp_ns - history.stamp_ns) / 1e9
        if 0 <= gap_s <= self.gap_s:
            return False
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        _log.log(level, "session %s: %.2f s after its last observation, its history begins anew", session, gap_s)
        return True
