"""Defects known from an earlier dispatcher of this kind; each test fails where the defect is back.

Numbers are those of the list they come from. Rows of a chunk carry their index in their value: 0.01 a row.
"""

from __future__ import annotations

import numpy as np
import pytest
from dispatch_rig import PERIOD_NS, Rig, chunk_of, ramp_of, values

from inference_service.dispatch.config import check_control_rate
from inference_service.dispatch.report import Source, State


def test_defect_2_a_goal_never_answered_does_not_hold_for_ever() -> None:
    rig = Rig(request_timeout_s=1.0)
    lost = rig.until_request()
    results = rig.ticks(40)
    again = [r.request for r in results if r.request is not None]
    assert any(lost.request_id in r.cancel for r in results)
    assert again
    assert again[0].sent_ns - lost.sent_ns <= 1.2e9
    assert rig.stats().counters.inference_timeouts >= 1
    assert "deadline" in rig.stats().last_error


def test_defect_2_a_request_does_not_outlive_the_use_of_its_answer() -> None:
    rig = Rig(request_timeout_s=60.0)
    rig.feed(ramp_of(20))
    lost = rig.until_request()
    results = rig.ticks(40)
    cancelled = next(r.tick for r in results if lost.request_id in r.cancel)
    assert (cancelled - lost.tick) * PERIOD_NS <= 22 * PERIOD_NS


def test_defect_3_with_the_server_away_no_request_is_made_and_no_tick_is_late() -> None:
    rig = Rig(ready=False)
    results = rig.ticks(100)
    assert all(r.request is None for r in results)
    rig.dispatcher.on_server_state(True, rig.now_ns)
    assert rig.tick().request is not None


def test_defect_4_a_hold_ends_and_is_counted_while_nothing_arrives() -> None:
    rig = Rig(safety={"hold_timeout_s": 1.0})
    rig.feed(ramp_of(5))
    rig.ticks(4)
    counted = []
    for _ in range(60):
        rig.tick()
        counted.append(rig.stats().counters.hold_ticks)
    assert rig.stats().state is State.SAFE
    assert counted == list(range(1, 61))
    assert any("safe behaviour" in message for message in rig.messages("error"))


def test_defect_5_ticks_spent_holding_count_when_a_late_chunk_is_aligned() -> None:
    rig = Rig(watermark=2)
    rig.feed(ramp_of(5))
    request = rig.until_request()
    before = rig.ticks(7)
    assert [r.source for r in before[-3:]] == [Source.HOLD] * 3
    rig.answer(request, ramp_of(20, start=1.0))
    after = rig.tick()
    assert values([after]) == [round(1.0 + 0.01 * (after.tick - request.tick), 6)]
    assert after.action_of == (request.request_id, 8)


@pytest.mark.parametrize("smoothing", [False, True])
def test_defect_5_a_chunk_shorter_than_the_elapsed_steps_does_not_empty_the_queue(smoothing: bool) -> None:
    rig = Rig(watermark=30, smoothing=smoothing)
    rig.feed(ramp_of(30))
    request = rig.until_request()
    rig.ticks(6)
    rig.answer(request, chunk_of(9, 9, 9))
    results = rig.ticks(5)
    assert [r.source for r in results] == [Source.QUEUE] * 5
    assert max(v for v in values(results) if v is not None) < 1
    assert rig.stats().counters.expired_chunks == 1
    assert rig.stats().counters.inferences == 1
    assert "7 ticks after its request" in rig.messages("warning")[0]


def test_defect_6_a_result_from_before_a_reset_is_not_applied_after_it() -> None:
    rig = Rig()
    old = rig.until_request()
    rig.dispatcher.reset()
    new = rig.until_request()
    rig.answer(old, ramp_of(20, start=1.0))
    assert rig.tick().command is None
    assert rig.stats().counters.late_results == 1
    rig.answer(new, ramp_of(20))
    assert values([rig.tick()])[0] == pytest.approx(0.02)


def test_defect_7_a_chunk_longer_than_queue_size_loses_no_action() -> None:
    rig = Rig(queue_size=10)
    rig.feed(ramp_of(25))
    results = rig.ticks(24)
    assert values(results) == [round(0.01 * i, 6) for i in range(1, 25)]
    rig.feed(ramp_of(25))
    rig.tick()
    warnings = rig.messages("warning")
    assert len(warnings) == 1
    assert "25 actions" in warnings[0]
    assert "queue_size 10" in warnings[0]


@pytest.mark.parametrize(
    ("control_hz", "fps", "wrong"), [(20, 20, False), (30, 20, True), (20, 30, True), (100, 20, True)]
)
def test_defect_8_a_control_rate_that_changes_the_robots_speed_is_told(
    control_hz: float, fps: float, wrong: bool
) -> None:
    text = check_control_rate(control_hz, fps)
    assert (text is not None) is wrong
    if text is not None:
        assert f"set control_frequency to {fps:g}" in text


def test_rig_rows_are_what_they_seem() -> None:
    assert np.allclose(ramp_of(3)[:, 0], [0.0, 0.01, 0.02])
