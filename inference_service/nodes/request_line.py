"""Requests waiting for the engine: per device session only the newest waits, sessions are served in turn."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from inference_service.wire.envelope import Request


@dataclass(frozen=True)
class Waiting:
    """A decoded request, when it came (``time.perf_counter``) and how long its decoding took."""

    request: Request
    received: float
    decode_ms: float


class RequestLine:
    """Thread-safe. A device without a session (plain form) is told apart by nothing, so each of its requests waits."""

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._condition = threading.Condition()
        self._line: OrderedDict[str, Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._line)

    def put(self, waiting: Waiting) -> Waiting | None:
        """Get in line; returns the request that this one displaced.

        A session keeps its place in the line when it sends a newer request. Where the line is full, the
        oldest gives way.
        """
        request = waiting.request
        key = request.session if request.extended else f"plain:{request.request_id}"
        with self._condition:
            displaced = self._line.get(key)
            self._line[key] = waiting
            if displaced is None and len(self._line) > self._capacity:
                _, displaced = self._line.popitem(last=False)
            self._condition.notify()
        return displaced

    def take(self, timeout_s: float) -> Waiting | None:
        """The request that has waited longest, or None after ``timeout_s``."""
        with self._condition:
            if not self._line and not self._condition.wait_for(lambda: bool(self._line), timeout_s):
                return None
            return self._line.popitem(last=False)[1]

    def drain(self) -> list[Waiting]:
        """Everything that still waits, out of the line."""
        with self._condition:
            rest = list(self._line.values())
            self._line.clear()
        return rest
