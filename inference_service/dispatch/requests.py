"""One request in flight at most, with a deadline of its own; every answer matched to the request it is for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

REMEMBERED = 256
"""Closed requests remembered, to tell a late answer from a foreign one."""


@dataclass(frozen=True)
class InferenceRequest:
    """A goal to send. ``sent_ns`` and ``deadline_ns`` are monotonic, ``obs_stamp_ns`` is ROS time, all nanoseconds."""

    request_id: str
    tick: int
    sent_ns: int
    deadline_ns: int
    obs_stamp_ns: int


class Match(Enum):
    """Whose answer it is (promise P7): only the ``CURRENT`` request's may be applied."""

    CURRENT = "current"
    LATE = "late"
    """For a request given up: timed out, cancelled by a reset, or lost with its server."""
    DUPLICATE = "duplicate"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Backoff:
    """Wait ``first_ns`` after the first failure in a row, twice as long after each further one, at most ``most_ns``."""

    first_ns: int
    most_ns: int

    def delay_ns(self, failures: int) -> int:
        return min(self.most_ns, self.first_ns << min(failures - 1, 30)) if failures else 0


class RequestTracker:
    """Numbers requests, keeps the one in flight, and remembers how the last :data:`REMEMBERED` ended."""

    def __init__(self, session: str, backoff: Backoff) -> None:
        self._session = session
        self._backoff = backoff
        self._closed: OrderedDict[str, Match] = OrderedDict()
        self._count = 0
        self._episode = 0
        self._not_before_ns = 0
        self.in_flight: InferenceRequest | None = None
        self.failures = 0
        """Failures in a row."""

    def may_start(self, now_ns: int) -> bool:
        return self.in_flight is None and now_ns >= self._not_before_ns

    def start(self, tick: int, now_ns: int, deadline_ns: int, obs_stamp_ns: int) -> InferenceRequest:
        self._count += 1
        session = f"{self._session}.{self._episode}" if self._episode else self._session
        self.in_flight = InferenceRequest(f"{session}-{self._count}", tick, now_ns, deadline_ns, obs_stamp_ns)
        return self.in_flight

    def new_episode(self) -> None:
        """Requests from now on belong to another run of the robot: their ids begin otherwise, by which the device knows
        to forget what went before."""
        self._episode += 1

    def overdue(self, now_ns: int) -> bool:
        return self.in_flight is not None and now_ns >= self.in_flight.deadline_ns

    def match(self, request_id: str) -> Match:
        """Whose answer this is; says nothing twice, so the caller closes the request it applies."""
        if self.in_flight is not None and request_id == self.in_flight.request_id:
            return Match.CURRENT
        return self._closed.get(request_id, Match.FOREIGN)

    def close(self, *, answered: bool) -> InferenceRequest | None:
        """End the request in flight and return it; a later answer to it is a duplicate, or late."""
        request, self.in_flight = self.in_flight, None
        if request is not None:
            self._closed[request.request_id] = Match.DUPLICATE if answered else Match.LATE
            while len(self._closed) > REMEMBERED:
                self._closed.popitem(last=False)
        return request

    def succeeded(self) -> int:
        """Forget the failures in a row; returns how many there were."""
        failures, self.failures = self.failures, 0
        self._not_before_ns = 0
        return failures

    def failed(self, now_ns: int) -> int:
        """Count a failure and wait before the next request; returns the failures in a row."""
        self.failures += 1
        self._not_before_ns = now_ns + self._backoff.delay_ns(self.failures)
        return self.failures

    def retry_now(self) -> None:
        """Stop waiting: the reason for the failures is gone."""
        self._not_before_ns = 0
