"""What the dispatcher says about itself: its state, one tick's outcome, events worth a log line, counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from inference_service.dispatch.queue import Float64
from inference_service.dispatch.requests import InferenceRequest


class State(str, Enum):
    """Where the dispatcher is. ``WAITING`` until the first action since the start or the last reset."""

    WAITING = "waiting"
    RUNNING = "running"
    HOLDING = "holding"
    SAFE = "safe"


class Source(str, Enum):
    """Where a tick's command came from."""

    QUEUE = "queue"
    HOLD = "hold"
    SAFE = "safe"
    IDLE = "idle"


@dataclass(frozen=True)
class Event:
    """Something that happened once and deserves a log line of that level."""

    level: Literal["debug", "info", "warning", "error"]
    message: str


@dataclass(frozen=True, eq=False)
class TickResult:
    """What one control tick decided.

    ``command`` is (joints,) float64 in robot units, ``None`` where nothing is to be sent. ``request`` is a goal to
    send now, ``cancel`` names requests given up since the last tick, whose goals are to be cancelled.
    ``action_of`` is (request id, row) of the newest action behind a command from the queue.
    """

    tick: int
    state: State
    source: Source
    command: Float64 | None
    remaining: int
    request: InferenceRequest | None = None
    cancel: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    action_of: tuple[str, int] | None = None


@dataclass
class Counters:
    """Totals since the start; nothing resets them."""

    inferences: int = 0
    """Chunks received in time, intact and applied."""
    actions: int = 0
    """Commands sent from the queue."""
    hold_ticks: int = 0
    """Ticks at which the queue was exhausted and the last command was sent again."""
    failures: int = 0
    inference_timeouts: int = 0
    rejected_chunks: int = 0
    """Chunks refused whole: not finite, or of another shape."""
    expired_chunks: int = 0
    """Chunks of which every step had elapsed on arrival."""
    stale_chunks: int = 0
    """Chunks whose remaining actions grew older than ``max_action_age`` in the queue."""
    late_results: int = 0
    duplicate_results: int = 0
    foreign_results: int = 0
    bad_joint_states: int = 0
    latency_sum_ms: float = 0.0


@dataclass(frozen=True)
class Stats:
    """One consistent look at the dispatcher; safe to hand to another thread. Durations as they were at ``at_ns``."""

    at_ns: int
    state: State
    latched: bool
    server_ready: bool
    smoothing: bool
    queue: int
    starved_ms: float
    """Time since the last action was followed, over resets too; 0 while one is, and before the first."""
    observation_age_ms: float
    """Age of the observation behind the last command from the queue."""
    avg_latency_ms: float
    chunk_size: int
    """Steps of the last chunk, 0 before the first."""
    consecutive_failures: int
    last_error: str
    """What failed last; empty once an inference succeeded after it."""
    obstacle: str
    """Why the actions that are there are not followed; empty where they are."""
    rival: str
    """A topic on which another node sends commands to this robot; empty where none does."""
    counters: Counters
    clamped: Mapping[str, int] = field(default_factory=dict)
    slowed: Mapping[str, int] = field(default_factory=dict)
