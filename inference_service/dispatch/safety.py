"""What must be true of a command before it may leave (promises P1, P3 and P5).

Age (P1). The age of an action is the monotonic time since its observation was asked for; action ``i`` of a
chunk is ``i`` periods old when it is due. It may leave while its age is at most ``max_action_age_s``; the
default, the chunk's duration plus one period, lets a whole chunk run and nothing run after it.

Bounds (P3). A chunk with a value that is not finite is refused whole. A target is brought within the velocity
limit of the command before it (or of the measured position, where there was none), then within the joint's
limits. Where the two disagree because the robot stands outside its limits, the limits win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isnan

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import NonFiniteAction, SafetyError
from inference_service.dispatch.queue import Float64

SECOND_NS = 1_000_000_000
LONGEST_S = 86_400.0
"""A time that is no longer than a day; arithmetic on nanoseconds of it stays exact."""
GREATEST_VALUE = 1e9
"""No actuator is further away; arithmetic on values within stays finite."""


class SafeBehaviour(str, Enum):
    """What follows a hold that lasted too long."""

    HOLD = "hold"
    """Go on sending the last command."""
    ZEROS = "zeros"
    """Go to zero, ramped and within all limits."""
    STOP = "stop"
    """Send nothing: the drive's own command time-out acts."""


@dataclass(frozen=True)
class JointBounds:
    """One entry of the action vector: its name, its limits in robot units, and its greatest speed in units a second.

    ``zero_when_safe``: this entry goes to zero where the others hold (a velocity command, say). ``measured``: the
    joint states report it, so that the first command can lead from where it is.
    """

    name: str
    lower: float = -np.inf
    upper: float = np.inf
    max_velocity: float = np.inf
    zero_when_safe: bool = False
    measured: bool = True

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise ValueError(f"joint {self.name!r}: limit min {self.lower} is not below max {self.upper}")
        if isnan(self.max_velocity) or self.max_velocity <= 0:
            raise ValueError(f"joint {self.name!r}: max velocity {self.max_velocity} must be above 0")


@dataclass(frozen=True)
class SafetyLimits:
    """How far the dispatcher may go. Times in seconds.

    ``max_action_age_s`` ``None``: the chunk's duration plus one period. ``ramp_s``: how long the first commands
    after a start, a reset or a safe state take to reach the plan from where the robot is; 0 turns that off.
    """

    joints: tuple[JointBounds, ...]
    max_action_age_s: float | None = None
    hold_timeout_s: float = 1.0
    on_timeout: SafeBehaviour = SafeBehaviour.HOLD
    latch: bool = False
    ramp_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.joints:
            raise ValueError("safety: no joints: the robot's contract names no action")
        if not (0 <= self.hold_timeout_s <= LONGEST_S and 0 <= self.ramp_s <= LONGEST_S):
            raise ValueError(
                f"safety: hold_timeout_s {self.hold_timeout_s} and ramp_s {self.ramp_s}"
                f" must be from 0 to {LONGEST_S:g} s"
            )


class SafetyGate:
    """The door through which every chunk enters and every command leaves. Counts what it changes."""

    def __init__(self, limits: SafetyLimits, period_ns: int) -> None:
        self.limits = limits
        self.clamped: Counter[str] = Counter()
        """Values outside the joint limits, by joint."""
        self.slowed: Counter[str] = Counter()
        """Values outside the velocity limit, by joint."""
        self._measured = np.array([joint.measured for joint in limits.joints])
        self._names = [joint.name for joint in limits.joints]
        self._lower = np.array([joint.lower for joint in limits.joints])
        self._upper = np.array([joint.upper for joint in limits.joints])
        self._zero = np.array([joint.zero_when_safe for joint in limits.joints])
        self.set_period(period_ns)

    def set_period(self, period_ns: int) -> None:
        """Tick every ``period_ns`` from now on.

        Raises:
            ValueError: actions would be too old before they could leave; the period stays as it was.
        """
        age_s = self.limits.max_action_age_s
        if age_s is not None and not 2 * period_ns / SECOND_NS <= age_s <= LONGEST_S:
            raise ValueError(
                f"safety: max_action_age_s {age_s} must be two control periods or more"
                f" ({2 * period_ns / SECOND_NS:g} s) and at most {LONGEST_S:g} s: change it or control_frequency"
            )
        self._period_ns = period_ns
        self.ramp_ticks = round(self.limits.ramp_s * SECOND_NS / period_ns)
        self._step = np.array([joint.max_velocity for joint in self.limits.joints]) * (period_ns / SECOND_NS)

    def check_chunk(self, actions: NDArray[np.floating] | Sequence[Sequence[float]]) -> Float64:
        """The chunk as (steps, joints) float64.

        Raises:
            SafetyError: not of shape (steps, joints), or empty.
            NonFiniteAction: a value is NaN, infinite or beyond :data:`GREATEST_VALUE`; the message names its step
                and joint.
        """
        checked = np.array(actions, np.float64)
        if checked.ndim != 2 or checked.shape[1] != len(self._names) or not len(checked):
            raise SafetyError(
                f"action chunk of shape {checked.shape}, the robot takes (steps, {len(self._names)}):"
                " the policy and the contract's actions do not belong together"
            )
        bad = np.argwhere(~(np.abs(checked) <= GREATEST_VALUE))
        if len(bad):
            step, joint = bad[0]
            raise NonFiniteAction(
                f"action[{step}] of joint {self._names[joint]!r} is {checked[step, joint]}"
                f" ({len(bad)} of {checked.size} values): chunk rejected"
            )
        return checked

    def check_positions(self, positions: NDArray[np.floating]) -> Float64:
        """Measured positions as (joints,) float64, NaN where a joint is not measured.

        Raises:
            SafetyError: they cannot be used: another length, not finite for a joint that is measured, or further
                outside its limits than those are apart. Such a joint is measured in another unit, and led "from where
                it is" it would be sent to its limit at once.
        """
        checked = np.array(positions, np.float64)
        if checked.shape != self._measured.shape:
            raise SafetyError(f"{checked.size} positions, the robot has {self._measured.size}")
        usable = np.abs(checked) <= GREATEST_VALUE
        near = np.where(usable, checked, 0.0)
        span = self._upper - self._lower
        usable &= (span == 0) | (np.maximum(self._lower - near, near - self._upper) <= span)
        for joint in np.flatnonzero(self._measured & ~usable):
            raise SafetyError(
                f"joint {self._names[joint]!r} is measured at {checked[joint]:g}, its limits are {self._lower[joint]:g}"
                f" to {self._upper[joint]:g}: check the driver and its unit"
            )
        checked[~self._measured] = np.nan
        return checked

    @property
    def needs_positions(self) -> bool:
        """Whether nothing may be commanded before the joints' positions are known."""
        return bool(self._measured.any())

    def lifetime_ns(self, steps: int) -> int:
        """How old an action of a chunk of ``steps`` actions may become, in nanoseconds."""
        if self.limits.max_action_age_s is None:
            return (steps + 1) * self._period_ns
        return round(self.limits.max_action_age_s * SECOND_NS)

    def usable_steps(self, steps: int) -> int:
        """How many of a chunk's first ``steps`` actions are young enough when due, with a period to spare."""
        return min(steps, self.lifetime_ns(steps) // self._period_ns)

    def bound(self, target: Float64, reference: Float64 | None) -> Float64:
        """The command for ``target``: (joints,) float64 in robot units, near ``reference`` and within all limits.

        ``reference`` is the command before this one or the measured position; NaN or ``None`` where unknown.
        """
        limited = np.clip(target, self._lower, self._upper)
        self._count(self.clamped, limited != target)
        if reference is not None:
            known = np.isfinite(reference)
            slow = np.where(known, np.clip(limited, reference - self._step, reference + self._step), limited)
            self._count(self.slowed, slow != limited)
            limited = np.clip(slow, self._lower, self._upper)
        return limited

    def safe_target(self, last: Float64) -> Float64 | None:
        """Where the safe behaviour goes from ``last``; ``None`` where it sends nothing."""
        if self.limits.on_timeout is SafeBehaviour.STOP:
            return None
        if self.limits.on_timeout is SafeBehaviour.ZEROS:
            return np.zeros_like(last)
        return np.where(self._zero, 0.0, last)

    def _count(self, counter: Counter[str], changed: NDArray[np.bool_]) -> None:
        if changed.any():
            counter.update(name for name, hit in zip(self._names, changed, strict=True) if hit)


class Ramp:
    """From where the robot is to where the plan is, in ``ticks`` equal parts of what lies between.

    The plan may move meanwhile: command ``k`` is ``start + k / ticks * (target - start)``, equal to the target from
    ``k = ticks`` on. A start of NaN is unknown: that joint follows its target at once.
    """

    def __init__(self, start: Float64, ticks: int) -> None:
        self._start = start
        self._ticks = ticks
        self._done = 0

    def apply(self, target: Float64) -> Float64:
        """The next command on the way to ``target``, both (joints,) float64."""
        self._done += 1
        if self._done >= self._ticks:
            return target
        part = self._done / self._ticks
        return np.where(np.isfinite(self._start), self._start + part * (target - self._start), target)

    @property
    def left(self) -> int:
        """Ticks until the plan is reached."""
        return max(0, self._ticks - self._done)
