"""Requests waiting for the engine: per device session only the newest waits, sessions are served in turn."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

from inference_service.core.grouping import shapes
from inference_service.wire.envelope import Request

ACTIVE_S = 1.0
"""A session that sent nothing for this long is not waited for."""
_PLAIN = ""
_PLAIN_WAITING = 8


@dataclass(frozen=True)
class Waiting:
    """A decoded request, when it came (``time.perf_counter``) and how long its decoding took."""

    request: Request
    received: float
    decode_ms: float


class RequestLine:
    """Thread-safe; bounded by ``capacity`` sessions.

    Each session has one place in the line, whatever it sends: a newer request takes the place of the one before.
    Requests in the plain form tell of no session. They have one place together, where up to eight wait, the oldest
    first: however many plain devices send, those with a session have their turn.

    Turns are kept by counting: who was served least often goes first, among equals who came first (start-time fair
    queueing, Goyal et al. 1996, with a cost of one a request). So nobody gains by riding along in others' passes.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._condition = threading.Condition()
        self._line: OrderedDict[str, deque[Waiting]] = OrderedDict()
        self._active: dict[str, float] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        with self._condition:
            return sum(map(len, self._line.values()))

    def put(self, waiting: Waiting) -> Waiting | None:
        """Get in line; returns the request that this one displaced.

        A session keeps its place in the line when it sends a newer request. Where the line is full, the oldest
        request of the device with the most sessions in it gives way.
        """
        request = waiting.request
        key = request.session if request.extended else _PLAIN
        with self._condition:
            self._active[key] = time.monotonic()
            if key not in self._line:
                self._turns[key] = max(self._turns.get(key, 0), self._turn)
            place = self._line.setdefault(key, deque())
            place.append(waiting)
            displaced = None
            if len(place) > (_PLAIN_WAITING if key == _PLAIN else 1):
                displaced = place.popleft()
            elif len(self._line) > self._capacity:
                displaced = self._make_room()
            self._condition.notify()
        return displaced

    def _make_room(self) -> Waiting:
        devices = Counter(place[0].request.device_id for place in self._line.values())
        most = max(devices.values())
        key = next(k for k, place in self._line.items() if devices[place[0].request.device_id] == most)
        return self._line.pop(key)[0]

    def take(self, timeout_s: float, most: int = 1, wait_s: float = 0.0) -> list[Waiting]:
        """The request that has waited longest and up to ``most - 1`` others of equal shapes; none after ``timeout_s``.

        Where more than one session has sent something lately, up to ``wait_s`` are spent on waiting for the others.
        """
        with self._condition:
            if not self._line and not self._condition.wait_for(lambda: bool(self._line), timeout_s):
                return []
            if wait_s > 0 and most > 1:
                wanted = min(most, self._active_sessions())
                self._condition.wait_for(lambda: len(self._line) >= wanted, wait_s)
            return self._take_alike(most)

    def _active_sessions(self) -> int:
        now = time.monotonic()
        self._active = {key: seen for key, seen in self._active.items() if now - seen < ACTIVE_S}
        return len(self._active)

    def _take_alike(self, most: int) -> list[Waiting]:
        taken: list[Waiting] = []
        first: Hashable = None
        for key in sorted(self._line, key=self._turns.__getitem__):
            place = self._line[key]
            own = shapes(place[0].request.batch) if most > 1 else None
            if taken and own != first:
                continue
            if not taken:
                first, self._turn = own, self._turns[key]
            taken.append(place.popleft())
            self._turns[key] += 1
            if not place:
                del self._line[key]
            if len(taken) >= most:
                break
        # Whoever comes again starts at the present turn, so what is not beyond it need not be kept.
        self._turns = {k: turn for k, turn in self._turns.items() if k in self._line or turn > self._turn}
        return taken

    def drain(self) -> list[Waiting]:
        """Everything that still waits, out of the line."""
        with self._condition:
            rest = [waiting for place in self._line.values() for waiting in place]
            self._line.clear()
        return rest
