"""What an observer of a running stack sees; ``t`` is when it was sent, on the observer's monotonic clock in seconds
(when it arrived, where the transport does not tell)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One message on a command topic, in the order of its contract."""

    t: float
    topic: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Chunk:
    """One chunk that the device node handed over; ``stages`` in milliseconds by name."""

    t: float
    request_id: str
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Joints:
    """Joint positions by name, radians."""

    t: float
    positions: Mapping[str, float]


@dataclass(frozen=True)
class QueueSize:
    """Actions waiting in the dispatcher, once a tick."""

    t: float
    size: int


@dataclass(frozen=True)
class Health:
    """One status of ``/diagnostics``; ``level`` 0 OK, 1 WARN, 2 ERROR, 3 STALE."""

    t: float
    node: str
    level: int
    message: str
    values: Mapping[str, str]

    def number(self, key: str) -> float | None:
        """A value as a number; ``None`` where it is absent, empty, no number or not finite."""
        try:
            value = float(self.values[key])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Card:
    """An engine's card: its state and what it computes with."""

    t: float
    values: Mapping[str, str]


@dataclass(frozen=True)
class Resources:
    """What the operating system says of one process. ``rss_mb`` in MiB."""

    t: float
    process: str
    rss_mb: float
    threads: int
    fds: int
    imports_torch: bool


@dataclass(frozen=True)
class Machine:
    """The state of this machine since the start of the run (``machine.py``).

    ``sleeper_p99_ms``: the tick interval of a thread that only sleeps. ``foreign_cores``: cores that others keep busy.
    """

    t: float
    sleeper_p99_ms: float
    foreign_cores: float


Event = Command | Chunk | Joints | QueueSize | Health | Card | Resources | Machine
