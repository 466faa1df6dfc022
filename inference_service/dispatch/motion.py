"""What is commanded at each tick: follow the plan, hold, or behave safely; and how to get from one to the other.

No change of state makes the command jump. Leaving a standstill (start, reset, safe state) takes ``ramp_s``; after
a hold of ``h`` periods the command catches up with the plan over ``h + 1`` ticks, since the plan went on meanwhile.
"""

from __future__ import annotations

from inference_service.dispatch.queue import Float64, Step
from inference_service.dispatch.report import Source, State
from inference_service.dispatch.safety import SECOND_NS, Ramp, SafeBehaviour, SafetyGate

JOINT_STATE_MAX_AGE_NS = SECOND_NS // 2
"""Positions older than this do not say where the robot is."""
LONGEST_FAREWELL_NS = 2 * SECOND_NS


class Motion:
    """The state machine drawn in :mod:`inference_service.dispatch.dispatcher`. All times monotonic nanoseconds."""

    def __init__(self, gate: SafetyGate, period_ns: int) -> None:
        self._gate = gate
        self._period_ns = period_ns
        self._measured: Float64 | None = None
        self._measured_ns = 0
        self._followed_ns: int | None = None
        self.hold_ticks = 0
        """Ticks at which the last command was sent again, in all."""
        self.reset()

    def set_period(self, period_ns: int) -> None:
        """Tick every ``period_ns`` from now on; to be followed by :meth:`reset`."""
        self._period_ns = period_ns

    def reset(self) -> None:
        """Nothing has been commanded yet, and nothing will be before the next action."""
        self.state = State.WAITING
        self.latched = False
        self.held_since_ns: int | None = None
        self._command: Float64 | None = None
        self._ramp: Ramp | None = None
        self._safe_target: Float64 | None = None

    def measured(self, positions: Float64, now_ns: int) -> None:
        self._measured = positions
        self._measured_ns = now_ns

    def may_follow(self, now_ns: int) -> bool:
        """Whether it is known where the robot is, so that a first action may be followed from there."""
        if self.commands_now:
            return True
        return self._position(now_ns) is not None or not self._gate.needs_positions

    def follow(self, step: Step, now_ns: int) -> Float64:
        """The command towards this tick's action."""
        if self.state is not State.RUNNING:
            self._leave_standstill(now_ns)
        self._command = self._approach(step.action)
        self._followed_ns = now_ns
        return self._command

    def wait(self, now_ns: int) -> tuple[Source, Float64 | None]:
        """No action is due: idle before the first, then hold, then the safe behaviour (promise P5)."""
        if self.state is State.WAITING:
            return Source.IDLE, None
        if self.state is State.RUNNING:
            self.state = State.HOLDING
            self.held_since_ns = now_ns
        if self.state is State.HOLDING and self.held_ns(now_ns) >= self._gate.limits.hold_timeout_s * SECOND_NS:
            self._enter_safe()
        if self.state is State.HOLDING:
            self.hold_ticks += 1
            return Source.HOLD, self._command
        return Source.SAFE, self._behave_safely()

    def held_ns(self, now_ns: int) -> int:
        """How long the last command has been held, or the safe behaviour has lasted with the hold before it."""
        return 0 if self.held_since_ns is None else now_ns - self.held_since_ns

    def starved_ns(self, now_ns: int) -> int:
        """Time since the last action was followed, over resets too; 0 while one is, and before the first."""
        if self.state is State.RUNNING or self._followed_ns is None:
            return 0
        return now_ns - self._followed_ns

    def farewell(self) -> list[Float64]:
        """Commands to send, one a period, before the process ends; ramped and bounded, two seconds of them at most.

        None where the safe behaviour leaves the robot as it is.
        """
        commands: list[Float64] = []
        if self._command is None or not self.commands_now:
            return commands
        target = self._gate.safe_target(self._command)
        if target is None or (target == self._command).all():
            return commands
        self._ramp = Ramp(self._command, self._gate.ramp_ticks)
        while len(commands) < LONGEST_FAREWELL_NS // self._period_ns:
            command = self._approach(target)
            if not self._ramp.left and (command == self._command).all():
                break
            self._command = command
            commands.append(command)
        return commands

    @property
    def commands_now(self) -> bool:
        """Whether the last tick's command is what the robot is under."""
        return self.state in (State.RUNNING, State.HOLDING) or (
            self.state is State.SAFE and self._safe_target is not None
        )

    def _position(self, now_ns: int) -> Float64 | None:
        return self._measured if now_ns - self._measured_ns <= JOINT_STATE_MAX_AGE_NS else None

    def _approach(self, target: Float64) -> Float64:
        return self._gate.bound(target if self._ramp is None else self._ramp.apply(target), self._command)

    def _periods_since_followed(self, now_ns: int) -> int:
        """By the clock, not by ticks: a process that was stopped held, too."""
        return 0 if self._followed_ns is None else round((now_ns - self._followed_ns) / self._period_ns)

    def _leave_standstill(self, now_ns: int) -> None:
        ticks = self._gate.ramp_ticks
        if self.state is State.HOLDING:
            unfinished = self._ramp.left if self._ramp is not None else 0
            ticks = min(ticks, max(self._periods_since_followed(now_ns), unfinished))
        if not self.commands_now:
            position = self._position(now_ns)
            self._command = self._command if position is None else position
        self._ramp = None if self._command is None else Ramp(self._command, ticks)
        self.state = State.RUNNING
        self.held_since_ns = None

    def _enter_safe(self) -> None:
        assert self._command is not None, "a hold follows a command"
        self.state = State.SAFE
        self.latched = self._gate.limits.latch
        self._safe_target = self._gate.safe_target(self._command)
        self._ramp = Ramp(self._command, self._gate.ramp_ticks)

    def _behave_safely(self) -> Float64 | None:
        if self._safe_target is None:
            return None
        if self._gate.limits.on_timeout is SafeBehaviour.HOLD:
            self.hold_ticks += 1
        self._command = self._approach(self._safe_target)
        return self._command
