"""The robot owner's promises, checked from outside: on the streams that anyone on the network can see.

Each monitor sees every event once, in order of arrival, and keeps only what it needs: a run may last for days.
What cannot be judged from outside, or did not come up in a run, is "not observed".
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference_service.demo.events import Card, Chunk, Command, Event, Health, Joints, Machine, QueueSize, Resources
from inference_service.dispatch.timing import TickClock, TickTimes

KEPT = "kept"
NOT_OBSERVED = "not observed"
DISPATCHER = "action_dispatcher"
ERROR_LEVEL = 2

# Arrival at the observer lags behind the sender by scheduling on a busy machine.
ARRIVAL_SLACK_S = 0.25
DIAGNOSTICS_PERIOD_S = 1.0
TICK_JITTER = 0.20
MIN_TICKS = 150
FOREIGN_CORES = 0.3
HELD_BACK = 1000
"""Events that wait to be put into the order of their times: about ten seconds of a robot with 20 ticks a second."""


@dataclass(frozen=True)
class Terms:
    """What this robot promises. Times in seconds, limits in the units of the command topic.

    ``joint_limits``: for each command topic, (joint, lowest, highest) for each of its values in order.
    ``observation_tolerance_s``: how old the joint state may be when an observation is taken.
    ``fingerprint``: of the policy on the device; empty where it is not known.
    """

    period_s: float
    max_action_age_s: float
    hold_timeout_s: float
    observation_tolerance_s: float
    latch: bool = False
    joint_limits: Mapping[str, Sequence[tuple[str, float, float]]] = field(default_factory=dict)
    fingerprint: str = ""


class Monitor:
    """One promise. ``observed`` once there was something to judge; ``breach`` keeps the first breach only."""

    promise = ""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.observed = False
        self.breach = ""

    def see(self, event: Event) -> None:
        """Take one event; the base class takes none."""

    def verdict(self) -> str:
        return self.breach or (KEPT if self.observed else NOT_OBSERVED)

    def broken(self, text: str) -> None:
        self.breach = self.breach or text


class ActionAge(Monitor):
    """P1: when the newest observation behind any chunk is older than the limit, commands only stay or go to zero.

    A device that starts again may send its first chunk before the observer is known to it. So a command is judged when
    the dispatcher has said next how many chunks it took: more than were seen here, and its age is not known.
    """

    promise = "P1"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._observed_at: float | None = None
        self._last: dict[str, tuple[float, ...]] = {}
        self._seen = 0
        self._taken = 0.0
        self._suspect = ""

    def see(self, event: Event) -> None:
        if isinstance(event, Chunk):
            self._observed_at = event.t - event.stages.get("total", 0.0) / 1e3
            self._seen += 1
        elif isinstance(event, Command):
            previous = self._last.get(event.topic)
            self._last[event.topic] = event.values
            if previous is not None and previous != event.values and self._observed_at is not None:
                self._judge(event, previous, event.t - self._observed_at)
        elif isinstance(event, Health) and event.node == DISPATCHER:
            self._compare_counts(event.number("inferences"))

    def verdict(self) -> str:
        return self.breach or self._suspect or super().verdict()

    def _judge(self, command: Command, previous: tuple[float, ...], age: float) -> None:
        self.observed = True
        allowed = self.terms.max_action_age_s
        going_to_zero = all(abs(now) <= abs(before) for now, before in zip(command.values, previous, strict=False))
        if age > allowed + self.terms.period_s + ARRIVAL_SLACK_S and not going_to_zero:
            text = f"a new command on {command.topic} {age:.2f} s after its observation, {allowed:.2f} s allowed"
            self._suspect = self._suspect or text

    def _compare_counts(self, taken: float | None) -> None:
        if taken is None:
            return
        # Fewer than before: a dispatcher that started again, and counts from zero.
        since = taken - self._taken if taken >= self._taken else taken
        if self._suspect and since <= self._seen:
            self.broken(self._suspect)
        self._suspect, self._seen, self._taken = "", 0, taken


class FreshObservations(Monitor):
    """P2, as far as the joint state shows it: no chunk is computed while the stream stands still."""

    promise = "P2"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._states: deque[float] = deque(maxlen=4096)

    def see(self, event: Event) -> None:
        if isinstance(event, Joints):
            self._states.append(event.t)
        elif isinstance(event, Chunk) and self._states:
            self.observed = True
            taken = event.t - event.stages.get("total", 0.0) / 1e3
            newest = max((t for t in self._states if t <= taken), default=self._states[0])
            age, allowed = taken - newest, self.terms.observation_tolerance_s
            if age > allowed + ARRIVAL_SLACK_S:
                self.broken(f"request {event.request_id} used a joint state {age:.2f} s old, {allowed:.2f} s allowed")


class CommandLimits(Monitor):
    """P3: every command finite and within its joint's limits."""

    promise = "P3"

    def see(self, event: Event) -> None:
        if not isinstance(event, Command):
            return
        self.observed = True
        limits = self.terms.joint_limits.get(event.topic, ())
        for index, value in enumerate(event.values):
            name, low, high = limits[index] if index < len(limits) else (str(index), -math.inf, math.inf)
            if not math.isfinite(value):
                self.broken(f"{event.topic}: joint {name} was sent {value}")
            elif not low - 1e-6 <= value <= high + 1e-6:
                self.broken(f"{event.topic}: joint {name} was sent {value:.4f}, limits {low:.4f} to {high:.4f}")


class TickJitter(Monitor):
    """P4: the 99th percentile of the tick interval stays within 20 % of the period while the robot is commanded.

    Measured twice: on the stream that the observer sees, and by the dispatcher itself. The stream is late when the
    observer is, the dispatcher's figures hold the start-up, when every process loads its libraries: late is what both
    call late. Where a thread which only sleeps is as late, or others compute on this machine, lateness shows nothing.
    """

    promise = "P4"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._commanded = False
        self._ticks = 0
        self._stream = TickClock()
        self._own_p99_ms: float | None = None
        self._machine = Machine(0.0, 0.0, 0.0)

    def see(self, event: Event) -> None:
        if isinstance(event, Command):
            self._commanded = True
        elif isinstance(event, QueueSize) and self._commanded:
            self._ticks += 1
            self._stream.record(round(event.t * 1e9))
        elif isinstance(event, Health) and event.node == DISPATCHER:
            self._own_p99_ms = event.number("tick_p99_ms") or self._own_p99_ms
        elif isinstance(event, Machine):
            self._machine = event

    @property
    def seen(self) -> TickTimes:
        """Tick intervals on the stream since the first command; zeros before the second tick."""
        return self._stream.times()

    def verdict(self) -> str:
        if self._own_p99_ms is None or self._ticks < MIN_TICKS:
            return NOT_OBSERVED
        allowed = self.terms.period_s * 1e3 * (1 + TICK_JITTER)
        p99 = min(self._own_p99_ms, self.seen.p99_ms)
        if p99 <= allowed:
            return KEPT
        if self._machine.sleeper_p99_ms > allowed or self._machine.foreign_cores > FOREIGN_CORES:
            return NOT_OBSERVED
        return f"the 99th percentile of the tick interval is {p99:.1f} ms, {allowed:.1f} ms allowed"


class _Starvation(Monitor):
    """Follows the spans in which the dispatcher's queue stays empty after it once had actions."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._was_fed = False
        self.empty_since: float | None = None

    def see(self, event: Event) -> None:
        if not isinstance(event, QueueSize):
            return
        if event.size > 0:
            if self.empty_since is not None:
                self.ended(event.t, event.t - self.empty_since)
            self._was_fed, self.empty_since = True, None
        elif self._was_fed:
            self.empty_since = event.t if self.empty_since is None else self.empty_since
            self.lasting(event.t, event.t - self.empty_since)

    def lasting(self, t: float, seconds: float) -> None:
        """The queue is still empty."""

    def ended(self, t: float, seconds: float) -> None:
        """The queue has actions again."""


class LossIsTold(_Starvation):
    """P5: an empty queue beyond the hold time-out is an ERROR of the dispatcher's within a second."""

    promise = "P5"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._error_at = -math.inf

    def see(self, event: Event) -> None:
        if isinstance(event, Health) and event.node == DISPATCHER and event.level >= ERROR_LEVEL:
            self._error_at = event.t
        super().see(event)

    def lasting(self, t: float, seconds: float) -> None:
        if seconds <= self.terms.hold_timeout_s + DIAGNOSTICS_PERIOD_S + ARRIVAL_SLACK_S:
            return
        self.observed = True
        if self.empty_since is not None and self._error_at < self.empty_since:
            self.broken(f"no ERROR from the dispatcher {seconds:.2f} s after its queue ran empty")


class Resumes(_Starvation):
    """P6: when chunks come again after a starvation beyond the hold time-out, the queue fills again."""

    promise = "P6"

    RESUME_S = 2.0

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._chunk_again: float | None = None

    def see(self, event: Event) -> None:
        if isinstance(event, Chunk) and self.empty_since is not None and self._chunk_again is None:
            self._chunk_again = event.t
        super().see(event)

    def lasting(self, t: float, seconds: float) -> None:
        if self._chunk_again is None or self.terms.latch:
            return
        waited = t - self._chunk_again
        if waited > self.RESUME_S:
            self.broken(f"chunks arrive again for {waited:.2f} s and the dispatcher's queue stays empty")

    def ended(self, t: float, seconds: float) -> None:
        self._chunk_again = None
        self.observed = self.observed or seconds > self.terms.hold_timeout_s


class AppliedOnce(Monitor):
    """P7: no request's chunk is handed over twice."""

    promise = "P7"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._recent: deque[str] = deque(maxlen=10_000)
        self._known: set[str] = set()

    def see(self, event: Event) -> None:
        if not isinstance(event, Chunk) or not event.request_id:
            return
        self.observed = True
        if event.request_id in self._known:
            self.broken(f"request {event.request_id} was applied twice")
            return
        if len(self._recent) == self._recent.maxlen:
            self._known.discard(self._recent.popleft())
        self._recent.append(event.request_id)
        self._known.add(event.request_id)


class SamePolicy(Monitor):
    """P8: chunks flow only while engine and device show the same fingerprint."""

    promise = "P8"

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._engine = ""

    def see(self, event: Event) -> None:
        if isinstance(event, Card):
            self._engine = event.values.get("fingerprint", "")
        elif isinstance(event, Chunk) and self._engine and self.terms.fingerprint:
            self.observed = True
            if self._engine != self.terms.fingerprint:
                self.broken(f"policy {self._engine} on the engine, {self.terms.fingerprint} on the device, and a chunk")


class BoundedMessages(Monitor):
    """P9 needs hostile messages to show; the test-suite sends them, this run does not."""

    promise = "P9"


class FlatResources(Monitor):
    """P10, as far as a run of a minute or more shows it: no process grows after its first 20 seconds."""

    promise = "P10"

    SETTLED_S = 20.0
    LEAST_SPAN_S = 40.0

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._first: dict[str, float] = {}
        self._settled: dict[str, Resources] = {}

    def see(self, event: Event) -> None:
        if not isinstance(event, Resources):
            return
        start = self._first.setdefault(event.process, event.t)
        if event.t - start < self.SETTLED_S:
            return
        base = self._settled.setdefault(event.process, event)
        if event.t - base.t >= self.LEAST_SPAN_S:
            self._compare(base, event)

    def _compare(self, base: Resources, now: Resources) -> None:
        self.observed = True
        if now.threads > base.threads + 3:
            self.broken(f"{now.process}: {base.threads} threads became {now.threads}")
        if now.fds > base.fds + 8:
            self.broken(f"{now.process}: {base.fds} file descriptors became {now.fds}")
        if now.rss_mb > base.rss_mb * 1.1 + 16:
            self.broken(f"{now.process}: {base.rss_mb:.0f} MiB became {now.rss_mb:.0f} MiB")


class PromiseWatch:
    """All ten. A starved observer takes one stream's messages before another's, though they were sent after: so the
    newest :data:`HELD_BACK` events wait, and are judged in the order of their times."""

    def __init__(self, terms: Terms) -> None:
        self.ticks = TickJitter(terms)
        before = [kind(terms) for kind in (ActionAge, FreshObservations, CommandLimits)]
        after = [kind(terms) for kind in (LossIsTold, Resumes, AppliedOnce, SamePolicy, BoundedMessages, FlatResources)]
        self._monitors: list[Monitor] = [*before, self.ticks, *after]
        self._waiting: list[tuple[float, int, Event]] = []
        self._arrivals = itertools.count()

    def see(self, event: Event) -> None:
        """One event, in order of arrival."""
        heapq.heappush(self._waiting, (event.t, next(self._arrivals), event))
        if len(self._waiting) > HELD_BACK:
            self._judge_first()

    def settle(self) -> None:
        """Judge what still waits: nothing comes any more."""
        while self._waiting:
            self._judge_first()

    def _judge_first(self) -> None:
        event = heapq.heappop(self._waiting)[2]
        for monitor in self._monitors:
            monitor.see(event)

    def verdicts(self) -> dict[str, str]:
        """P1 to P10 of what was judged so far: "kept", "not observed", or what was breached and how."""
        return {monitor.promise: monitor.verdict() for monitor in self._monitors}


def broken_promises(verdicts: Mapping[str, str]) -> dict[str, str]:
    """Those of :meth:`PromiseWatch.verdicts` that were breached."""
    return {promise: text for promise, text in verdicts.items() if text not in (KEPT, NOT_OBSERVED)}
