"""The dispatcher tick by tick, on a fake clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dispatch_rig import JOINTS, PERIOD_NS, ROS_EPOCH_NS, Rig, chunk_of, ramp_of, values

from inference_service.dispatch.config import DispatcherConfig
from inference_service.dispatch.report import Source, State
from inference_service.dispatch.safety import JointBounds, SafeBehaviour, SafetyLimits

SECOND = 20
"""Ticks."""


# -- before the first action ------------------------------------------------------------------------------------


def test_nothing_is_commanded_before_the_first_action_ever() -> None:
    rig = Rig(request_timeout_s=1.0)
    results = rig.ticks(10 * SECOND)
    assert {r.source for r in results} == {Source.IDLE}
    assert values(results) == [None] * len(results)
    assert rig.stats().state is State.WAITING


def test_nothing_is_commanded_before_the_joints_positions_are_known() -> None:
    rig = Rig(joints_at=None)
    request = rig.feed(ramp_of(40))
    assert values(rig.ticks(5)) == [None] * 5
    assert rig.stats().obstacle
    rig.joints_at = 0.0
    first = rig.tick()
    assert first.action_of == (request.request_id, 6)
    assert [m for m in rig.messages("warning") if "joint state" in m] == [
        "no joint state: nothing is commanded until the joints' positions are known"
    ]
    assert not rig.stats().obstacle


def test_nothing_is_commanded_from_positions_in_another_unit() -> None:
    rig = Rig(joints_at=57.3)  # degrees, say: the limits are -2 to 2
    rig.feed(ramp_of(40))
    assert values(rig.ticks(5)) == [None] * 5
    assert "joint 'pan' is measured at 57.3, its limits are -2 to 2" in rig.stats().obstacle
    assert any("'pan' is measured at 57.3" in m for m in rig.messages("warning"))
    rig.joints_at = 0.0
    assert rig.tick().command is not None


def test_positions_half_a_second_old_do_not_say_where_the_robot_is() -> None:
    rig = Rig()
    request = rig.until_request()
    rig.joints_at = None
    rig.ticks(9)
    rig.answer(request, ramp_of(60))
    assert rig.tick().command is not None
    rig.dispatcher.reset()
    rig.feed(ramp_of(60))
    assert values(rig.ticks(3)) == [None] * 3


def test_positions_that_are_not_finite_are_counted_and_not_used() -> None:
    rig = Rig(joints_at=float("nan"))
    rig.feed(ramp_of(40))
    assert rig.tick().command is None
    assert rig.stats().counters.bad_joint_states == 2


def test_a_robot_without_measured_joints_needs_no_positions() -> None:
    wheels = (JointBounds("vx", measured=False), JointBounds("vy", measured=False))
    rig = Rig(joints_at=None, safety={"joints": wheels, "ramp_s": 1.0})
    rig.feed(chunk_of(0.0, 0.5, 0.5))
    assert values([rig.tick()]) == [0.5]


# -- nothing jumps ----------------------------------------------------------------------------------------------


def test_after_a_start_the_commands_lead_from_the_measured_positions() -> None:
    rig = Rig(joints_at=1.0, safety={"ramp_s": 0.5})
    rig.feed(chunk_of(*[0.0] * 30))
    commands = [v for v in values(rig.ticks(12)) if v is not None]
    assert commands[:3] == [0.9, 0.8, 0.7]
    assert commands[9:] == [0.0, 0.0, 0.0]


def test_after_a_reset_the_commands_lead_from_the_measured_positions_again() -> None:
    rig = Rig(safety={"ramp_s": 0.5})
    rig.feed(chunk_of(*[0.0] * 30))
    rig.ticks(12)
    rig.dispatcher.reset()
    rig.joints_at = 1.0
    rig.feed(chunk_of(*[0.0] * 30))
    assert values(rig.ticks(2)) == [0.9, 0.8]


def test_after_a_hold_the_commands_catch_up_with_the_plan() -> None:
    rig = Rig(safety={"ramp_s": 1.0})
    rig.feed(chunk_of(*[0.0] * 25))
    rig.ticks(24)
    request = rig.until_request()
    rig.ticks(2)
    rig.answer(request, chunk_of(*[1.0] * 30))
    assert values(rig.ticks(5)) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_hold_does_not_cut_an_unfinished_ramp_short() -> None:
    rig = Rig(joints_at=2.0, safety={"ramp_s": 1.0})
    rig.feed(chunk_of(0.0, 0.0, 0.0))
    rig.ticks(2)
    rig.feed(chunk_of(*[0.0] * 30))
    steps = np.diff([v for v in values(rig.ticks(19)) if v is not None])
    assert np.abs(steps).max() < 0.12


def test_a_velocity_limit_bounds_every_step_from_the_first_on() -> None:
    joints = tuple(JointBounds(j.name, -2, 2, max_velocity=1.0) for j in JOINTS)
    rig = Rig(joints_at=0.5, safety={"joints": joints})
    rig.feed(chunk_of(*[-2.0] * 60))
    commands = [0.5] + [v for v in values(rig.ticks(60)) if v is not None]
    assert np.abs(np.diff(commands)).max() <= 0.05 + 1e-9
    assert commands[-1] == -2.0
    assert rig.stats().slowed["pan"] > 0


# -- holding and safe behaviour (P5, P6) ------------------------------------------------------------------------


def starve(behaviour: SafeBehaviour = SafeBehaviour.HOLD, **safety: Any) -> Rig:
    """A robot at 0.5 whose chunks have just run out."""
    rig = Rig(joints_at=0.5, safety={"on_timeout": behaviour, "hold_timeout_s": 0.5, **safety})
    rig.feed(chunk_of(0.5, 0.5, 0.5))
    rig.ticks(2)
    rig.dispatcher.on_server_state(False, rig.now_ns)
    return rig


@pytest.mark.parametrize(
    ("behaviour", "expected"), [(SafeBehaviour.HOLD, 0.5), (SafeBehaviour.ZEROS, 0.0), (SafeBehaviour.STOP, None)]
)
def test_p5_hold_for_hold_timeout_then_the_safe_behaviour(behaviour: SafeBehaviour, expected: float | None) -> None:
    rig = starve(behaviour)
    held = rig.ticks(10)
    assert {(r.source, r.state) for r in held} == {(Source.HOLD, State.HOLDING)}
    assert values(held) == [0.5] * 10
    safe = rig.ticks(40)
    assert {(r.source, r.state) for r in safe} == {(Source.SAFE, State.SAFE)}
    assert values(safe) == [expected] * 40
    assert len(rig.messages("error")) == 2  # the server's leaving, and the safe behaviour


def test_p5_the_way_to_zero_is_ramped() -> None:
    rig = starve(SafeBehaviour.ZEROS, ramp_s=0.5)
    rig.ticks(10)
    assert values(rig.ticks(11)) == [pytest.approx(v) for v in (*np.arange(9, -1, -1) * 0.05, 0.0)]


def test_p5_a_velocity_entry_goes_to_zero_where_the_others_hold() -> None:
    rig = starve(joints=(JOINTS[0], JointBounds("wheel", zero_when_safe=True)))
    rig.ticks(10)
    command = rig.tick().command
    assert command is not None
    assert command.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("behaviour", list(SafeBehaviour))
def test_p6_the_dispatcher_resumes_by_itself(behaviour: SafeBehaviour) -> None:
    rig = starve(behaviour)
    rig.ticks(60)
    rig.dispatcher.on_server_state(True, rig.now_ns)
    rig.feed(chunk_of(*[0.6] * 30))
    assert values(rig.ticks(3)) == [0.6] * 3
    assert rig.stats().state is State.RUNNING
    assert rig.stats().starved_ms == 0
    assert rig.messages("info")[-1] == "dispatching actions (was safe)"


def test_p6_resuming_from_stop_leads_from_the_measured_positions() -> None:
    rig = starve(SafeBehaviour.STOP, ramp_s=0.5)
    rig.ticks(60)
    rig.joints_at = None
    rig.ticks(SECOND)
    rig.dispatcher.on_server_state(True, rig.now_ns)
    rig.feed(chunk_of(*[0.5] * 40))
    assert values(rig.ticks(3)) == [None] * 3
    rig.joints_at = 1.5
    assert values(rig.ticks(2)) == [1.4, 1.3]


def test_p6_latched_it_stays_safe_until_reset() -> None:
    rig = starve(latch=True)
    rig.ticks(20)
    rig.dispatcher.on_server_state(True, rig.now_ns)
    results = rig.ticks(60)
    assert all(r.request is None and r.source is Source.SAFE for r in results)
    assert rig.stats().latched
    rig.dispatcher.reset()
    assert not rig.stats().latched
    rig.feed(chunk_of(*[0.6] * 30))
    assert values([rig.tick()]) == [0.6]


def test_p6_latching_gives_up_the_request_in_flight_and_drops_its_answer() -> None:
    rig = Rig(safety={"latch": True, "hold_timeout_s": 0.2})
    rig.feed(chunk_of(0.5, 0.5, 0.5))
    rig.ticks(2)
    request = rig.until_request()
    results = rig.ticks(10)
    assert any(request.request_id in r.cancel for r in results)
    rig.answer(request, chunk_of(*[1.0] * 40))
    assert {r.source for r in rig.ticks(5)} == {Source.SAFE}
    assert rig.stats().counters.late_results == 1


def test_starvation_is_told_over_a_reset_too() -> None:
    rig = starve()
    rig.ticks(4)
    rig.dispatcher.reset()
    rig.ticks(16)
    assert rig.stats().state is State.WAITING
    assert rig.stats().starved_ms >= 1000


# -- age (P1) ---------------------------------------------------------------------------------------------------


def test_p1_after_a_stall_of_the_process_no_old_action_leaves() -> None:
    rig = Rig()
    rig.feed(ramp_of(40))
    rig.ticks(3)
    rig.now_ns += 30 * 1_000_000_000
    after = rig.tick()
    assert after.source is Source.HOLD
    assert after.request is not None
    assert rig.stats().counters.stale_chunks == 1


@pytest.mark.parametrize("smoothing", [False, True])
def test_p1_a_shorter_limit_ends_a_chunk_early(smoothing: bool) -> None:
    rig = Rig(smoothing=smoothing, safety={"max_action_age_s": 0.5})
    request = rig.feed(ramp_of(40))
    results = rig.ticks(20)
    followed = [r for r in results if r.source is Source.QUEUE]
    assert [r.tick - request.tick for r in followed] == list(range(1, 10))
    assert rig.stats().observation_age_ms > 500


def test_p1_the_limit_is_asked_at_each_tick() -> None:
    rig = Rig(safety={"max_action_age_s": 0.5})
    rig.feed(ramp_of(40))
    rig.tick()
    rig.now_ns += 420_000_000
    assert rig.tick().source is Source.HOLD


# -- bad chunks (P3) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_p3_a_chunk_that_is_not_finite_is_refused_and_the_queue_goes_on(bad: float) -> None:
    rig = Rig(watermark=100)
    rig.feed(ramp_of(30))
    actions = ramp_of(30)
    actions[29, 1] = bad
    rig.feed(actions)
    assert {r.source for r in rig.ticks(20)} == {Source.QUEUE}
    assert rig.stats().counters.rejected_chunks == 1
    assert "action[29] of joint 'lift'" in rig.stats().last_error
    assert "action[29] of joint 'lift'" in rig.messages("warning")[0]


def test_p3_targets_are_clamped_counted_and_named() -> None:
    rig = Rig()
    rig.feed(chunk_of(5.0, 5.0, -5.0))
    assert values(rig.ticks(2)) == [2.0, -2.0]
    assert rig.stats().clamped == {"pan": 2, "lift": 2}


# -- requests and answers (P4, P7) ------------------------------------------------------------------------------


def test_a_request_names_the_ros_time_of_its_tick() -> None:
    rig = Rig()
    expected = ROS_EPOCH_NS + rig.now_ns
    request = rig.until_request()
    assert request.obs_stamp_ns == expected
    assert request.sent_ns == expected - ROS_EPOCH_NS


def test_the_next_request_goes_out_at_the_watermark_and_only_one_at_a_time() -> None:
    rig = Rig(watermark=5)
    rig.feed(ramp_of(20))
    results = rig.ticks(19)
    asked = [r for r in results if r.request is not None]
    assert [r.remaining for r in asked] == [5]


def test_p7_an_answer_is_applied_once() -> None:
    rig = Rig()
    request = rig.feed(ramp_of(30))
    rig.tick()
    rig.answer(request, ramp_of(30, start=1.0))
    rig.dispatcher.on_result("another-1", ramp_of(30, start=1.0), 5.0, rig.now_ns)
    rig.dispatcher.on_failure(request.request_id, "late", rig.now_ns)
    assert values([rig.tick()])[0] == pytest.approx(0.02)
    counters = rig.stats().counters
    assert (counters.duplicate_results, counters.foreign_results, counters.inferences) == (1, 1, 1)
    assert counters.failures == 0


def test_failures_pause_before_the_next_goal_and_are_told_once() -> None:
    rig = Rig(retry_s=0.1, retry_max_s=1.0)
    asked = []
    for _ in range(10 * SECOND):
        request = rig.tick().request
        if request is not None:
            asked.append(request.tick)
            rig.dispatcher.on_failure(request.request_id, "engine_unavailable: no engine", rig.now_ns)
    gaps = np.diff(asked)
    assert len(asked) < 20
    assert gaps[-1] == pytest.approx(SECOND, abs=1)
    assert gaps.tolist() == sorted(gaps.tolist())
    assert rig.messages("warning") == ["inference failed: engine_unavailable: no engine"]
    rig.feed(ramp_of(30))
    rig.tick()
    assert "inference recovered after" in rig.messages("info")[-2]
    assert rig.stats().last_error == ""


def test_a_server_that_leaves_takes_its_request_with_it() -> None:
    rig = Rig()
    request = rig.until_request()
    rig.dispatcher.on_server_state(False, rig.now_ns)
    result = rig.tick()
    assert result.cancel == (request.request_id,)
    assert rig.messages("error") == ["inference server is gone"]
    rig.dispatcher.on_server_state(True, rig.now_ns)
    assert rig.tick().request is not None


def test_latency_falls_back_to_the_round_trip() -> None:
    rig = Rig()
    rig.answer(rig.until_request(), ramp_of(30), latency_ms=0.0)
    rig.tick()
    assert "✓ First inference received: chunk=30, latency=50.0ms" in rig.messages("info")
    assert rig.stats().avg_latency_ms == 50.0


def test_the_first_inference_is_told_to_the_letter_and_once() -> None:
    rig = Rig()
    rig.answer(rig.until_request(), ramp_of(3), latency_ms=15.23)
    rig.ticks(3)
    rig.feed(ramp_of(3))
    rig.tick()
    assert [m for m in rig.messages("info") if "First" in m] == ["✓ First inference received: chunk=3, latency=15.2ms"]


@pytest.mark.parametrize(("late_ticks", "commands"), [(0, [0.7]), (1, [None])])
def test_a_single_action_may_come_within_one_tick(late_ticks: int, commands: list[float | None]) -> None:
    rig = Rig()
    request = rig.until_request()
    rig.ticks(late_ticks)
    rig.answer(request, chunk_of(0.7))
    assert values([rig.tick()]) == commands


# -- smoothing --------------------------------------------------------------------------------------------------


def test_smoothing_blends_and_can_be_switched_while_running() -> None:
    rig = Rig(watermark=100, smoothing=True)
    rig.feed(chunk_of(*[0.0] * 20))
    rig.feed(chunk_of(*[1.0] * 20))
    blended = values([rig.tick()])[0]
    assert blended == pytest.approx(np.exp(-0.01) / (1 + np.exp(-0.01)), abs=1e-6)
    rig.dispatcher.set_smoothing(False)
    assert values([rig.tick()])[0] == 1.0
    rig.dispatcher.set_smoothing(True)
    assert rig.stats().smoothing
    assert values([rig.tick()])[0] == 1.0


# -- the end ----------------------------------------------------------------------------------------------------


def test_farewell_of_a_held_robot_is_nothing_more() -> None:
    rig = Rig()
    rig.feed(chunk_of(*[0.5] * 30))
    rig.ticks(5)
    assert rig.dispatcher.final_commands() == []


def test_farewell_to_zero_is_ramped_and_bounded() -> None:
    rig = Rig(joints_at=0.5, safety={"on_timeout": SafeBehaviour.ZEROS, "ramp_s": 0.5})
    rig.feed(chunk_of(*[0.5] * 30))
    rig.ticks(5)
    commands = [round(float(c[0]), 6) for c in rig.dispatcher.final_commands()]
    assert commands == [pytest.approx(v) for v in np.arange(9, -1, -1) * 0.05]


def test_farewell_never_takes_longer_than_two_seconds() -> None:
    joints = (JointBounds("pan", max_velocity=0.01), JointBounds("lift"))
    rig = Rig(joints_at=0.5, safety={"joints": joints, "on_timeout": SafeBehaviour.ZEROS})
    rig.feed(chunk_of(*[0.5] * 30))
    rig.ticks(5)
    commands = rig.dispatcher.final_commands()
    assert len(commands) == 2 * SECOND
    assert 0.4 < commands[-1][0] < 0.5


@pytest.mark.parametrize("behaviour", list(SafeBehaviour))
def test_a_robot_that_was_never_moved_gets_no_farewell(behaviour: SafeBehaviour) -> None:
    rig = Rig(safety={"on_timeout": behaviour})
    rig.until_request()
    assert rig.dispatcher.final_commands() == []


def test_farewell_gives_up_the_request_in_flight() -> None:
    rig = Rig()
    request = rig.until_request()
    rig.dispatcher.final_commands()
    rig.answer(request, ramp_of(10))
    assert rig.stats().counters.late_results == 1


# -- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"control_hz": 0.0},
        {"control_hz": float("nan")},
        {"control_hz": 5000.0},
        {"control_hz": 1e-300},
        {"queue_size": 0},
        {"watermark": -1},
        {"request_timeout_s": 0.0},
        {"request_timeout_s": 1e300},
        {"request_timeout_s": float("inf")},
        {"retry_s": 2.0},
        {"retry_max_s": float("inf")},
        {"ensemble_coeff": float("nan")},
        {"ensemble_coeff": -1e6},
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_its_key(changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"safety": SafetyLimits(joints=JOINTS), "control_hz": 20.0, "session": "s", **changes}
    with pytest.raises(ValueError, match=next(iter(changes)).replace("control_hz", "control_frequency").rstrip("_s")):
        DispatcherConfig(**settings)


def test_stats_are_a_copy() -> None:
    rig = Rig()
    before = rig.stats()
    rig.feed(ramp_of(30))
    rig.ticks(3)
    assert before.counters.actions == 0
    assert before.at_ns < rig.stats().at_ns
    assert rig.stats().observation_age_ms == pytest.approx(4 * PERIOD_NS / 1e6)


def test_another_frequency_forgets_the_plan_and_a_bad_one_changes_nothing() -> None:
    rig = Rig(safety={"max_action_age_s": 1.0})
    rig.answer(rig.until_request(), ramp_of(20))
    assert rig.tick().command is not None
    with pytest.raises(ValueError, match="max_action_age_s"):
        rig.dispatcher.reconfigure(replace(rig.dispatcher.config, control_hz=1.0))
    assert rig.dispatcher.config.control_hz == 20.0
    assert rig.tick().command is not None
    rig.dispatcher.reconfigure(replace(rig.dispatcher.config, control_hz=50.0))
    assert rig.tick().command is None
    rig.answer(rig.until_request(), ramp_of(20))
    assert rig.tick().command is not None


def test_the_watermark_may_change_while_running() -> None:
    rig = Rig()
    rig.answer(rig.until_request(), ramp_of(20))
    assert rig.tick().request is None
    rig.dispatcher.reconfigure(replace(rig.dispatcher.config, watermark=30))
    assert rig.tick().request is not None


def test_a_clock_that_jumps_back_forgets_the_plan_and_the_request_and_holds() -> None:
    rig = Rig(watermark=30)
    rig.answer(rig.until_request(), ramp_of(20))
    asked = rig.tick().request
    assert asked is not None
    rig.dispatcher.on_clock_jump()
    result = rig.tick()
    assert (result.source, result.remaining, result.cancel) == (Source.HOLD, 0, (asked.request_id,))
    assert result.request is not None
    rig.answer(asked, ramp_of(20))  # of before the jump
    assert rig.tick().source is Source.HOLD
    assert rig.dispatcher.counters.late_results == 1


def test_a_clock_that_jumps_back_does_not_undo_the_latch() -> None:
    rig = Rig(safety={"latch": True, "hold_timeout_s": 0.2})
    rig.answer(rig.until_request(), ramp_of(5))
    rig.ticks(2 * SECOND)
    assert rig.dispatcher.stats(rig.now_ns).latched
    rig.dispatcher.on_clock_jump()
    assert rig.tick().request is None
    assert rig.dispatcher.stats(rig.now_ns).latched


def test_another_frequency_does_not_undo_the_latch() -> None:
    rig = Rig(safety={"latch": True, "hold_timeout_s": 0.2})
    rig.answer(rig.until_request(), ramp_of(5))
    rig.ticks(2 * SECOND)
    with pytest.raises(ValueError, match="latched: call ~/reset"):
        rig.dispatcher.reconfigure(replace(rig.dispatcher.config, control_hz=10.0))
    assert rig.tick().request is None
    assert rig.stats().latched
    assert rig.dispatcher.config.control_hz == 20.0


def test_a_coefficient_that_is_not_finite_is_refused_while_running() -> None:
    rig = Rig(smoothing=True)
    rig.feed(ramp_of(20))
    with pytest.raises(ValueError, match="temporal_ensemble_coeff nan"):
        rig.dispatcher.reconfigure(replace(rig.dispatcher.config, ensemble_coeff=float("nan")))
    command = rig.tick().command
    assert command is not None
    assert np.isfinite(command).all()


def test_a_dispatcher_does_not_begin_while_another_commands_the_robot() -> None:
    rig = Rig()
    rig.dispatcher.on_rival("/arm", rig.now_ns)
    rig.feed(ramp_of(60))
    assert values(rig.ticks(SECOND - 1)) == [None] * (SECOND - 1)
    assert rig.stats().obstacle.startswith("another node sends commands on /arm: nothing is commanded")
    rig.ticks(3)
    assert rig.tick().command is not None
    assert not rig.stats().obstacle


def test_a_dispatcher_that_leads_the_robot_goes_on_and_tells_of_another() -> None:
    rig = Rig()
    rig.feed(ramp_of(60))
    rig.ticks(3)
    rig.dispatcher.on_rival("/arm", rig.now_ns)
    assert rig.tick().command is not None
    assert rig.stats().rival == "/arm"
    rig.ticks(SECOND + 1)
    assert not rig.stats().rival


def test_a_process_that_was_stopped_catches_up_as_after_a_hold_of_that_time() -> None:
    rig = Rig(safety={"ramp_s": 1.0})
    rig.feed(chunk_of(*[0.0] * 40))
    rig.ticks(SECOND + 5)
    rig.now_ns += 4 * SECOND * PERIOD_NS  # SIGSTOP, a debugger, a machine that slept
    request = rig.tick().request  # what was planned is too old
    assert request is not None
    rig.answer(request, chunk_of(*[1.0] * 40))
    commands = values(rig.ticks(SECOND + 2))
    assert commands[:2] == [0.05, 0.1]
    assert commands[-1] == 1.0
