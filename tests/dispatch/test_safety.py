"""The safety gate alone: what enters, what leaves, how old it may be."""

from __future__ import annotations

import re

import numpy as np
import pytest

from inference_service.core.errors import NonFiniteAction, SafetyError
from inference_service.dispatch.safety import JointBounds, Ramp, SafeBehaviour, SafetyGate, SafetyLimits

PERIOD_NS = 50_000_000
JOINTS = (JointBounds("pan", -1.0, 1.0, max_velocity=2.0), JointBounds("lift", 0.0, 0.5))


def gate(**changes: object) -> SafetyGate:
    return SafetyGate(SafetyLimits(**{"joints": JOINTS, **changes}), PERIOD_NS)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_chunk_with_one_bad_value_is_refused_whole_and_the_place_named(bad: float) -> None:
    actions = np.zeros((20, 2))
    actions[13, 1] = bad
    with pytest.raises(NonFiniteAction, match=r"action\[13\] of joint 'lift'.*1 of 40"):
        gate().check_chunk(actions)


@pytest.mark.parametrize("shape", [(5, 3), (0, 2), (10,), (1, 5, 2)])
def test_a_chunk_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SafetyError, match="shape"):
        gate().check_chunk(np.zeros(shape))


def test_checking_copies_the_chunk() -> None:
    actions = np.zeros((3, 2), np.float32)
    checked = gate().check_chunk(actions)
    actions[:] = np.nan
    assert checked.dtype == np.float64
    assert np.isfinite(checked).all()


def test_limits_clamp_and_count_by_joint() -> None:
    door = gate()
    assert door.bound(np.array([3.0, -1.0]), None).tolist() == [1.0, 0.0]
    assert door.bound(np.array([0.5, 0.6]), None).tolist() == [0.5, 0.5]
    assert door.clamped == {"pan": 1, "lift": 2}


def test_velocity_is_limited_against_the_reference_each_tick() -> None:
    door = gate()
    assert door.bound(np.array([1.0, 0.5]), np.zeros(2)).tolist() == [0.1, 0.5]
    assert door.bound(np.array([-1.0, 0.0]), np.zeros(2)).tolist() == [-0.1, 0.0]
    assert door.slowed == {"pan": 2}


def test_limits_win_where_the_robot_stands_outside_them() -> None:
    assert gate().bound(np.array([0.0, 0.0]), np.array([2.5, 0.0])).tolist() == [1.0, 0.0]


def test_an_unknown_reference_limits_nothing() -> None:
    assert gate().bound(np.array([1.0, 0.5]), np.array([np.nan, 0.5])).tolist() == [1.0, 0.5]


def test_a_whole_chunk_may_run_by_default_and_no_more() -> None:
    assert gate().lifetime_ns(50) == 51 * PERIOD_NS
    assert gate().usable_steps(50) == 50


def test_a_shorter_age_limit_cuts_what_could_never_leave() -> None:
    door = gate(max_action_age_s=0.5)
    assert door.lifetime_ns(50) == 500_000_000
    assert door.usable_steps(50) == 10
    assert door.usable_steps(4) == 4


@pytest.mark.parametrize("age", [0.0, 0.09, float("nan"), float("inf"), 1e300, -1.0])
def test_an_age_limit_that_cannot_work_is_refused(age: float) -> None:
    with pytest.raises(ValueError, match="max_action_age_s"):
        gate(max_action_age_s=age)


@pytest.mark.parametrize(
    "changes",
    [
        {"hold_timeout_s": float("nan")},
        {"hold_timeout_s": -1.0},
        {"ramp_s": float("inf")},
        {"ramp_s": 1e300},
        {"joints": ()},
    ],
)
def test_limits_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="safety"):
        gate(**changes)


@pytest.mark.parametrize("bounds", [(1.0, -1.0, 1.0), (np.nan, 1.0, 1.0), (-1.0, 1.0, 0.0), (-1.0, 1.0, np.nan)])
def test_joint_bounds_that_cannot_work_are_refused(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="joint 'x'"):
        JointBounds("x", *bounds)


def test_positions_must_be_finite_where_they_are_measured() -> None:
    door = gate(joints=(JointBounds("arm"), JointBounds("wheel", measured=False)))
    checked = door.check_positions(np.array([0.3, np.inf]))
    assert checked[0] == 0.3
    assert np.isnan(checked[1])
    for unusable, words in (([np.nan, 0.0], "'arm' is measured at nan"), ([1e12, 0.0], "1e+12"), ([0.3], "1 position")):
        with pytest.raises(SafetyError, match=re.escape(words)):
            door.check_positions(np.array(unusable))
    assert door.needs_positions
    assert not gate(joints=(JointBounds("wheel", measured=False),)).needs_positions


def test_positions_far_outside_the_limits_are_those_of_another_unit() -> None:
    door = gate()  # pan -1 to 1, lift 0 to 0.5
    assert door.check_positions(np.array([2.9, -0.4])).tolist() == [2.9, -0.4]  # a robot may rest outside them
    with pytest.raises(SafetyError, match=r"joint 'pan' is measured at 45, its limits are -1 to 1: .*unit"):
        door.check_positions(np.array([45.0, 0.0]))
    with pytest.raises(SafetyError, match=r"joint 'lift' is measured at -0\.6"):
        door.check_positions(np.array([0.0, -0.6]))
    fixed = gate(joints=(JointBounds("fixed", 0.2, 0.2), JointBounds("free")))
    assert fixed.check_positions(np.array([0.19, 1e6])).tolist() == [0.19, 1e6]


def test_where_each_safe_behaviour_goes() -> None:
    joints = (JointBounds("arm"), JointBounds("wheel", zero_when_safe=True))
    last = np.array([0.7, 0.4])
    hold = gate(joints=joints).safe_target(last)
    zeros = gate(joints=joints, on_timeout=SafeBehaviour.ZEROS).safe_target(last)
    assert hold is not None
    assert hold.tolist() == [0.7, 0.0]
    assert zeros is not None
    assert zeros.tolist() == [0.0, 0.0]
    assert gate(joints=joints, on_timeout=SafeBehaviour.STOP).safe_target(last) is None


def test_a_ramp_reaches_a_moving_target_in_its_ticks() -> None:
    ramp = Ramp(np.array([0.0, np.nan]), 4)
    commands = [ramp.apply(np.array([4.0 + k, 9.0])).tolist() for k in range(5)]
    assert commands == [[1.0, 9.0], [2.5, 9.0], [4.5, 9.0], [7.0, 9.0], [8.0, 9.0]]
    assert ramp.left == 0
