"""What a run has shown so far: bounded series for the table and the picture, counters and firsts for the report."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from inference_service.core.batch import UInt8
from inference_service.demo.events import Card, Chunk, Command, Event, Health, Joints, Machine, QueueSize, Resources
from inference_service.demo.promises import DISPATCHER, PromiseWatch, Terms

SETTLED_S = 5.0
"""From this many seconds after the first command on, a hold counts against the run."""

_SERIES = 20_000
T = TypeVar("T")


@dataclass
class Recording:
    """Filled by the observer's threads through :meth:`see`, read by one other thread through :meth:`read`."""

    terms: Terms
    chunks: deque[Chunk] = field(default_factory=lambda: deque(maxlen=_SERIES))
    commands: dict[str, deque[Command]] = field(default_factory=dict)
    joints: deque[Joints] = field(default_factory=lambda: deque(maxlen=_SERIES))
    queue: deque[QueueSize] = field(default_factory=lambda: deque(maxlen=_SERIES))
    health: dict[str, Health] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    resources: dict[str, Resources] = field(default_factory=dict)
    card: Card | None = None
    machine: Machine | None = None
    frames: dict[str, UInt8] = field(default_factory=dict)
    inferences: int = 0
    commanded: dict[str, int] = field(default_factory=dict)
    first_command_at: float | None = None
    holds_at_settled: float = 0.0

    def __post_init__(self) -> None:
        self.promises = PromiseWatch(self.terms)
        self._lock = threading.Lock()
        self._frozen = False

    def see(self, event: Event) -> None:
        """Take one event, in order of arrival."""
        with self._lock:
            if self._frozen:
                return
            self.promises.see(event)
            self._keep(event)

    def freeze(self) -> None:
        """The run is over: what is seen from now on is the stack being stopped."""
        with self._lock:
            self._frozen = True
            self.promises.settle()

    def read(self, look: Callable[[Recording], T]) -> T:
        """The result of ``look`` on a recording that stands still meanwhile."""
        with self._lock:
            return look(self)

    def add_frame(self, name: str, pixels: UInt8) -> None:
        """The newest picture of a camera, uint8 (H, W, 3) RGB."""
        with self._lock:
            self.frames[name] = pixels

    def _keep(self, event: Event) -> None:
        if isinstance(event, Command):
            self.commands.setdefault(event.topic, deque(maxlen=_SERIES)).append(event)
            self.commanded[event.topic] = self.commanded.get(event.topic, 0) + 1
            if self.first_command_at is None:
                self.first_command_at = event.t
        elif isinstance(event, Chunk):
            self.chunks.append(event)
            self.inferences += 1
        elif isinstance(event, Joints):
            # A tenth of a second is finer than the picture's pixels.
            if not self.joints or event.t - self.joints[-1].t >= 0.05:
                self.joints.append(event)
        elif isinstance(event, QueueSize):
            self.queue.append(event)
        elif isinstance(event, Health):
            self._keep_health(event)
        elif isinstance(event, Card):
            self.card = event
        elif isinstance(event, Machine):
            self.machine = event
        else:
            self.resources[event.process] = event

    def _keep_health(self, event: Health) -> None:
        self.health[event.node] = event
        if event.level == 0:
            self.ready_at.setdefault(event.node, event.t)
        if event.node == DISPATCHER and not self.settled(event.t):
            # The last count before the run is settled: holds between it and that moment count against the run.
            self.holds_at_settled = event.number("hold_ticks") or 0.0

    def settled(self, t: float) -> bool:
        """Whether ``t`` is late enough for a hold to count."""
        return self.first_command_at is not None and t >= self.first_command_at + SETTLED_S

    def dispatcher(self, key: str) -> float | None:
        """A number of the dispatcher's newest diagnostics."""
        status = self.health.get(DISPATCHER)
        return status.number(key) if status else None

    def busiest_topic(self) -> str | None:
        """The command topic with the most messages: one message on it is one tick."""
        return max(self.commanded, key=lambda topic: self.commanded[topic], default=None)

    def actions(self) -> int:
        """Commands that followed a chunk: those seen, less the dispatcher's holds."""
        return max(0, max(self.commanded.values(), default=0) - int(self.dispatcher("hold_ticks") or 0))
