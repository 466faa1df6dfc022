"""Who talks to the engine: sessions come and go, devices are counted, one whose session ended is forgotten.

A session lasts as long as a device's process. It has ended when the same device comes with a new one, or when nothing
was heard of it for ``IDLE_S``; then a policy that looks back may drop its history.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

IDLE_S = 60.0
"""A session that sent nothing for so long is over. It may come back, as one without a history."""
MAX_SESSIONS = 256
REFUSALS_PER_S = 100.0
"""Every device hears every reply, so one that only sends what must be refused is not told more often than this."""
_RATE_PERIOD_S = 0.5
_RETURNS = 3


@dataclass
class DeviceCount:
    """What came from one device, and what became of it. ``unanswered``: refused without a word. ``rate_hz``:
    requests a second, lately. ``returns``: how often a session came back that a newer one had replaced."""

    received: int = 0
    served: int = 0
    refused: int = 0
    unanswered: int = 0
    rate_hz: float = 0.0
    returns: int = 0
    _since: float = 0.0
    _received_then: int = 0
    _words: float = REFUSALS_PER_S
    _words_at: float = 0.0

    def note_received(self, now: float) -> None:
        self.received += 1
        elapsed = now - self._since
        if elapsed >= _RATE_PERIOD_S:
            self.rate_hz = (self.received - self._received_then) / elapsed if self._since else 0.0
            self._since, self._received_then = now, self.received

    def note_refused(self, now: float) -> bool:
        """Whether the device may be told (a bucket of a second's worth)."""
        self.refused += 1
        self._words = min(REFUSALS_PER_S, self._words + (now - self._words_at) * REFUSALS_PER_S)
        self._words_at = now
        if self._words < 1.0:
            self.unanswered += 1
            return False
        self._words -= 1.0
        return True


@dataclass
class _Session:
    device_id: str
    seen: float


class SessionTable:
    """Thread-safe; bounded. ``clock`` in seconds, monotonic. ``on_conflict`` is called once for each device id under
    which two devices send at the same time; neither's history is dropped for the other then."""

    def __init__(self, on_conflict: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_conflict = on_conflict
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._devices: OrderedDict[str, DeviceCount] = OrderedDict()
        self._replaced: OrderedDict[str, str] = OrderedDict()
        self._shared: set[str] = set()
        self._ended: deque[str] = deque(maxlen=16 * MAX_SESSIONS)

    def __len__(self) -> int:
        return len(self._sessions)

    def note(self, session: str, device_id: str) -> None:
        """A request came."""
        now = self._clock()
        with self._lock:
            self._device(device_id).note_received(now)
            conflict = self._comes_back(session, device_id)
            if session not in self._sessions and device_id not in self._shared:
                self._end([key for key, s in self._sessions.items() if s.device_id == device_id], replaced=True)
            self._sessions[session] = _Session(device_id, now)
            self._sessions.move_to_end(session)
            if len(self._sessions) > MAX_SESSIONS:
                self._end([next(iter(self._sessions))])
        if conflict:
            self._on_conflict(device_id)

    def count_served(self, device_id: str) -> None:
        """A request was answered with an action."""
        with self._lock:
            self._device(device_id).served += 1

    def count_refused(self, device_id: str) -> bool:
        """A request is refused; whether to tell the device."""
        with self._lock:
            return self._device(device_id).note_refused(self._clock())

    def take_ended(self) -> list[str]:
        """Sessions that are over since this was last asked."""
        now = self._clock()
        with self._lock:
            self._end([key for key, s in self._sessions.items() if now - s.seen >= IDLE_S])
            ended = list(self._ended)
            self._ended.clear()
        return ended

    def devices(self) -> dict[str, DeviceCount]:
        """By device id; those heard of last, last. At most ``MAX_SESSIONS``."""
        with self._lock:
            return dict(self._devices)

    def _comes_back(self, session: str, device_id: str) -> bool:
        """Whether it is clear by now that a session that was taken for ended is not: once may be a request that was
        on its way when the device began anew."""
        if session in self._sessions or self._replaced.get(session) != device_id or device_id in self._shared:
            return False
        device = self._device(device_id)
        device.returns += 1
        if device.returns < _RETURNS:
            return False
        self._shared.add(device_id)
        return True

    def _device(self, device_id: str) -> DeviceCount:
        device = self._devices.setdefault(device_id, DeviceCount())
        self._devices.move_to_end(device_id)
        if len(self._devices) > MAX_SESSIONS:
            gone, _ = self._devices.popitem(last=False)
            self._shared.discard(gone)
        return device

    def _end(self, sessions: list[str], *, replaced: bool = False) -> None:
        for session in sessions:
            device_id = self._sessions.pop(session).device_id
            self._ended.append(session)
            if replaced:
                self._replaced[session] = device_id
                if len(self._replaced) > MAX_SESSIONS:
                    self._replaced.popitem(last=False)
