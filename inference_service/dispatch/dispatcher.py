"""The dispatcher: which command leaves at each control tick, and when to ask for more.

Pure logic on an injected clock. ``now_ns`` everywhere is a monotonic clock in nanoseconds; only observation
stamps (``ros_now_ns``) are ROS time. Nothing here waits, locks or knows of a network: every method returns at
once (promise P4), and all of them are to be called from one thread.

::

    WAITING ──first action──► RUNNING ──queue empty──► HOLDING ──hold_timeout──► SAFE
       ▲                         ▲                        │                       │
       │                         └──────── a chunk ───────┴── a chunk, unlatched ─┘
       └── reset(), from anywhere
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import NonFiniteAction, SafetyError
from inference_service.dispatch.config import DispatcherConfig
from inference_service.dispatch.motion import Motion
from inference_service.dispatch.queue import ActionPlan, ActionQueue, Chunk, Float64, Step, first_due_tick
from inference_service.dispatch.report import Counters, Event, Source, State, Stats, TickResult
from inference_service.dispatch.requests import Backoff, InferenceRequest, Match, RequestTracker
from inference_service.dispatch.safety import SECOND_NS, SafetyGate
from inference_service.dispatch.smoothing import TemporalEnsembler

MILLISECOND_NS = 1_000_000
RIVAL_SILENT_NS = SECOND_NS
"""Another node that has sent no command for so long no longer leads the robot."""
SHORTEST_PATIENCE_NS = SECOND_NS // 2


class ActionDispatcher:
    """See the module. Feed it results, failures, server and joint states; call :meth:`tick` at the control rate."""

    def __init__(self, config: DispatcherConfig) -> None:
        self.config = config
        self.counters = Counters()
        self._gate = SafetyGate(config.safety, config.period_ns)
        self._motion = Motion(self._gate, config.period_ns)
        backoff = Backoff(round(config.retry_s * SECOND_NS), round(config.retry_max_s * SECOND_NS))
        self._requests = RequestTracker(config.session, backoff)
        self._plan: ActionPlan = ActionQueue()
        self._smoothing = False
        self._events: list[Event] = []
        self._cancel: list[str] = []
        self._tick = 0
        self._chunk_size = 0
        self._observed_ns: int | None = None
        self._server_ready = False
        self._last_error = ""
        self._obstacle = ""
        self._joints_problem = ""
        self._rival: tuple[str, int] | None = None
        self._said_too_long = False
        self.set_smoothing(config.smoothing)

    # -- what comes in ------------------------------------------------------------------------------------------

    def on_server_state(self, ready: bool, now_ns: int) -> None:
        """Whether the inference server is there. A request in flight to one that left is given up at once."""
        if ready == self._server_ready:
            return
        self._server_ready = ready
        if ready:
            self._requests.retry_now()
            self._say("info", "inference server is ready")
        else:
            self._say("error", "inference server is gone")
            if self._requests.in_flight is not None:
                self._give_up("the inference server left", now_ns)

    def on_joint_state(self, positions: NDArray[np.floating], now_ns: int) -> None:
        """Measured positions, (joints,) in robot units; a joint that is not measured may hold anything."""
        try:
            checked = self._gate.check_positions(positions)
        except SafetyError as error:
            self.counters.bad_joint_states += 1
            self._joints_problem = str(error)
        else:
            self._joints_problem = ""
            self._motion.measured(checked, now_ns)

    def on_rival(self, topic: str, now_ns: int) -> None:
        """A command of somebody else was heard on ``topic`` at ``now_ns``. Two that lead one robot make it leap between
        them, whatever each keeps to: this one does not begin before the other is silent."""
        self._rival = topic, now_ns

    def on_result(self, request_id: str, actions: NDArray[np.floating], latency_ms: float, now_ns: int) -> None:
        """A chunk, (steps, joints) in robot units, for the request of that id; applied once, or counted and dropped.

        ``latency_ms`` is the server's own; one that is not above 0 is replaced by the round trip seen from here.
        """
        request = self._settle(request_id)
        if request is None:
            return
        try:
            checked = self._gate.check_chunk(actions)
        except (NonFiniteAction, SafetyError) as error:
            self.counters.rejected_chunks += 1
            self._failed(str(error), now_ns)
            return
        if not (np.isfinite(latency_ms) and latency_ms > 0):
            latency_ms = (now_ns - request.sent_ns) / MILLISECOND_NS
        self._apply(request, checked, latency_ms, now_ns)

    def on_failure(self, request_id: str, error: str, now_ns: int) -> None:
        """The request of that id failed; the next one waits a little, longer after each failure in a row.

        Word of a request already closed says nothing new (one that was cancelled ends so) and is ignored.
        """
        if self._requests.match(request_id) is Match.CURRENT:
            self._requests.close(answered=True)
            self._failed(error, now_ns)

    def reset(self) -> None:
        """Forget the plan, the request in flight and the latch: nothing is commanded until a new chunk comes."""
        self._plan.clear()
        self._abandon()
        self._requests.new_episode()
        self._requests.succeeded()
        self._motion.reset()
        self._observed_ns = None
        self._last_error = ""
        self._obstacle = ""
        self._say("info", "dispatcher reset")

    def on_clock_jump(self) -> None:
        """ROS time jumped back: what was planned or asked for is of another time. The robot holds until a new chunk
        comes; a latch stays."""
        self._plan.clear()
        self._abandon()
        self._requests.new_episode()
        self._requests.retry_now()
        self._say("warning", "the clock jumped back: plan forgotten")

    def set_smoothing(self, enabled: bool) -> None:
        """Blend overlapping chunks from now on, or no longer; what is planned stays planned."""
        if enabled != self._smoothing:
            chunks = self._plan.chunks
            self._plan = TemporalEnsembler(self.config.ensemble_coeff, chunks) if enabled else ActionQueue(chunks)
            self._smoothing = enabled
            self.config = replace(self.config, smoothing=enabled)

    def reconfigure(self, config: DispatcherConfig) -> None:
        """Dispatch by ``config`` from now on; its ``safety`` and ``session`` have to be the same.

        What is planned stays planned, except at another ``control_hz``: steps are ticks, so the plan is forgotten and
        the robot led anew from where it is.

        Raises:
            ValueError: values that cannot work, or another ``control_hz`` while latched; nothing has changed then.
        """
        before = self.config
        if config.control_hz != before.control_hz:
            if self._motion.latched:
                raise ValueError("control_frequency: the dispatcher is latched: call ~/reset first")
            self._gate.set_period(config.period_ns)
            self._motion.set_period(config.period_ns)
            self.reset()
        self.config = config
        if config.ensemble_coeff != before.ensemble_coeff and self._smoothing:
            self._plan = TemporalEnsembler(config.ensemble_coeff, self._plan.chunks)
        self.set_smoothing(config.smoothing)

    @property
    def smoothing(self) -> bool:
        return self._smoothing

    # -- the control tick ---------------------------------------------------------------------------------------

    def tick(self, now_ns: int, ros_now_ns: int) -> TickResult:
        """Decide this tick's command, and whether to ask for a chunk. Never blocks, never raises for bad data.

        ``ros_now_ns`` is ROS time: the stamp that a request made now asks an observation for.
        """
        if self._requests.overdue(now_ns):
            self.counters.inference_timeouts += 1
            self._give_up("no result before its deadline", now_ns)
        self.counters.stale_chunks += self._plan.expire(now_ns)
        remaining = self._plan.remaining(self._tick)
        request = self._ask(remaining, now_ns, ros_now_ns)
        step = self._due(now_ns)
        source, command = self._move(step, now_ns)
        result = TickResult(
            tick=self._tick,
            state=self._motion.state,
            source=source,
            command=command,
            remaining=remaining,
            request=request,
            cancel=tuple(self._cancel),
            events=tuple(self._events),
            action_of=None if step is None else (step.request_id, step.index),
        )
        self._cancel.clear()
        self._events.clear()
        self._tick += 1
        return result

    def final_commands(self) -> list[Float64]:
        """What to send, one a period, when the process is about to end; and give up the request in flight.

        Empty where the safe behaviour leaves the robot as it is.
        """
        self._abandon()
        return self._motion.farewell()

    def stats(self, now_ns: int) -> Stats:
        """Everything worth showing, as of ``now_ns``."""
        counters = replace(self.counters, hold_ticks=self._motion.hold_ticks)
        age_ns = 0 if self._observed_ns is None else now_ns - self._observed_ns
        return Stats(
            at_ns=now_ns,
            state=self._motion.state,
            latched=self._motion.latched,
            server_ready=self._server_ready,
            smoothing=self._smoothing,
            queue=self._plan.remaining(self._tick),
            starved_ms=self._motion.starved_ns(now_ns) / MILLISECOND_NS,
            observation_age_ms=age_ns / MILLISECOND_NS,
            avg_latency_ms=counters.latency_sum_ms / max(1, counters.inferences),
            chunk_size=self._chunk_size,
            consecutive_failures=self._requests.failures,
            last_error=self._last_error,
            obstacle=self._obstacle,
            rival=self._rival_topic(now_ns),
            counters=counters,
            clamped=dict(self._gate.clamped),
            slowed=dict(self._gate.slowed),
        )

    # -- moving -------------------------------------------------------------------------------------------------

    def _due(self, now_ns: int) -> Step | None:
        """The planned action of this tick, where the robot may follow it."""
        step = self._plan.take(self._tick)
        if step is None:
            return None
        before, self._obstacle = self._obstacle, self._find_obstacle(now_ns)
        if self._obstacle and not before:
            self._say("warning", self._obstacle)
        return None if self._obstacle else step

    def _find_obstacle(self, now_ns: int) -> str:
        """Why the robot may not be led now; empty where it may."""
        rival = self._rival_topic(now_ns)
        if rival and not self._motion.commands_now:
            return f"another node sends commands on {rival}: nothing is commanded until it is silent"
        if self._motion.may_follow(now_ns):
            return ""
        lacking = f"no usable joint state ({self._joints_problem})" if self._joints_problem else "no joint state"
        return f"{lacking}: nothing is commanded until the joints' positions are known"

    def _rival_topic(self, now_ns: int) -> str:
        if self._rival is None or now_ns - self._rival[1] > RIVAL_SILENT_NS:
            return ""
        return self._rival[0]

    def _move(self, step: Step | None, now_ns: int) -> tuple[Source, Float64 | None]:
        before = self._motion.state
        if step is None:
            source, command = self._motion.wait(now_ns)
        else:
            source, command = Source.QUEUE, self._motion.follow(step, now_ns)
            self._observed_ns = step.observed_ns
            self.counters.actions += 1
        if self._motion.latched:
            self._plan.clear()
            self._abandon()
        if self._motion.state is not before:
            self._say_change(before, self._motion.state, now_ns)
        return source, command

    def _say_change(self, before: State, after: State, now_ns: int) -> None:
        if after is State.SAFE:
            ending = "latched: call ~/reset to re-arm" if self._motion.latched else "resumes with the next actions"
            self._say(
                "error",
                f"no action for {self._motion.held_ns(now_ns) / SECOND_NS:.2f} s:"
                f" safe behaviour {self.config.safety.on_timeout.value!r} ({ending});"
                f" last error: {self._last_error or 'none'}",
            )
        elif State.HOLDING not in (before, after):
            self._say("info", f"dispatching actions (was {before.value})")

    # -- requests and answers -----------------------------------------------------------------------------------

    def _ask(self, remaining: int, now_ns: int, ros_now_ns: int) -> InferenceRequest | None:
        wanted = remaining <= self.config.watermark and self._server_ready and not self._motion.latched
        if not (wanted and self._requests.may_start(now_ns)):
            return None
        return self._requests.start(self._tick, now_ns, now_ns + self._patience_ns(), ros_now_ns)

    def _patience_ns(self) -> int:
        """How long to wait for a result: no longer than any of its actions could still be used."""
        longest = round(self.config.request_timeout_s * SECOND_NS)
        if not self._chunk_size:
            return longest
        return min(longest, max(SHORTEST_PATIENCE_NS, self._gate.lifetime_ns(self._chunk_size)))

    def _settle(self, request_id: str) -> InferenceRequest | None:
        """Close the request in flight if this answer is for it; count the answer otherwise (promise P7)."""
        match = self._requests.match(request_id)
        if match is Match.CURRENT:
            return self._requests.close(answered=True)
        if match is Match.LATE:
            self.counters.late_results += 1
        elif match is Match.DUPLICATE:
            self.counters.duplicate_results += 1
        else:
            self.counters.foreign_results += 1
        self._say("debug", f"{match.value} result of request {request_id} dropped")
        return None

    def _apply(self, request: InferenceRequest, actions: Float64, latency_ms: float, now_ns: int) -> None:
        steps = len(actions)
        self._chunk_size = steps
        self._check_queue_size(steps)
        chunk = Chunk(
            request_id=request.request_id,
            first_tick=first_due_tick(request.tick, steps),
            observed_ns=request.sent_ns,
            expires_ns=request.sent_ns + self._gate.lifetime_ns(steps),
            actions=actions[: self._gate.usable_steps(steps)],
        )
        if not self._plan.push(chunk, self._tick):
            self.counters.expired_chunks += 1
            self._failed(
                f"chunk of {len(chunk.actions)} usable steps came {self._tick - request.tick} ticks after its request:"
                " inference takes longer than its actions last",
                now_ns,
            )
            self._requests.retry_now()
            return
        self.counters.inferences += 1
        self.counters.latency_sum_ms += latency_ms
        if self.counters.inferences == 1:
            self._say("info", f"✓ First inference received: chunk={steps}, latency={latency_ms:.1f}ms")
        failures = self._requests.succeeded()
        self._last_error = ""
        if failures:
            self._say("info", f"inference recovered after {failures} failures")

    def _check_queue_size(self, steps: int) -> None:
        if steps > self.config.queue_size and not self._said_too_long:
            self._said_too_long = True
            self._say(
                "warning",
                f"chunk of {steps} actions is longer than queue_size {self.config.queue_size}: kept whole;"
                f" set queue_size to {steps} or more",
            )

    def _give_up(self, error: str, now_ns: int) -> None:
        request = self._abandon()
        if request is not None:
            waited_s = (now_ns - request.sent_ns) / SECOND_NS
            self._failed(f"request {request.request_id} given up after {waited_s:.2f} s: {error}", now_ns)

    def _abandon(self) -> InferenceRequest | None:
        request = self._requests.close(answered=False)
        if request is not None:
            self._cancel.append(request.request_id)
        return request

    def _failed(self, error: str, now_ns: int) -> None:
        self.counters.failures += 1
        self._last_error = error
        if self._requests.failed(now_ns) == 1:
            self._say("warning", f"inference failed: {error}")

    def _say(self, level: Literal["debug", "info", "warning", "error"], message: str) -> None:
        self._events.append(Event(level, message))
