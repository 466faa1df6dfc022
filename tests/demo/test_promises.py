"""Each promise is kept by a good stream of events, and its breach is seen in a spoilt one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from demo_streams import STAGES, TERMS, TOPIC, command, dispatcher, good_run, with_ticks

from inference_service.demo.events import Card, Chunk, Command, Event, Joints, Machine, QueueSize, Resources
from inference_service.demo.promises import KEPT, NOT_OBSERVED, PromiseWatch, Terms, broken_promises


def verdicts(events: Iterable[Event], terms: Terms = TERMS) -> dict[str, str]:
    watch = PromiseWatch(terms)
    for event in events:
        watch.see(event)
    watch.settle()
    return watch.verdicts()


def held(start: float, seconds: float) -> list[Event]:
    """The queue is empty and the last command is sent again and again."""
    still = [replace(command(start), t=start + n * 0.05) for n in range(round(seconds / 0.05))]
    return [e for c in still for e in (c, QueueSize(c.t, 0))]


def test_a_good_minute_keeps_what_can_be_seen() -> None:
    found = verdicts(good_run(70))
    assert list(found) == [f"P{n}" for n in range(1, 11)]
    assert {p for p, text in found.items() if text == KEPT} == {"P1", "P2", "P3", "P4", "P7", "P8", "P10"}
    assert {p for p, text in found.items() if text == NOT_OBSERVED} == {"P5", "P6", "P9"}


def test_nothing_seen_is_nothing_judged() -> None:
    assert set(verdicts([]).values()) == {NOT_OBSERVED}


def test_p1_a_new_command_from_an_old_observation() -> None:
    found = verdicts([*good_run(3), *with_ticks(3.0, 3.0, queue=5)])
    assert "after its observation" in found["P1"]


def test_p1_an_unseen_chunk_is_no_breach() -> None:
    """A device that started again sent its first chunk before the observer knew it; the dispatcher counts it."""
    before = [*good_run(3), dispatcher(3.0, inferences=3)]
    old = with_ticks(6.0, 0.5)
    for counted in (4, 1):  # 1: the dispatcher started again too
        assert verdicts([*before, *old, dispatcher(6.6, inferences=counted)])["P1"] == KEPT
    seen = Chunk(6.55, "seen", STAGES)
    assert "after its observation" in verdicts([*before, *old, seen, dispatcher(6.6, inferences=4)])["P1"]
    assert "after its observation" in verdicts([*before, *old, dispatcher(6.6, inferences=3)])["P1"]


def test_a_starved_observer_takes_one_stream_before_another() -> None:
    """Each event says when it was sent. That all commands of five seconds were taken before the chunks, and these
    before the joint states, is the observer's doing; that a chunk was missing is not."""
    events = list(good_run(8))
    late = [e for e in events if e.t >= 3.0]
    first = (Command, Chunk, QueueSize)
    taken = [*(e for e in late if isinstance(e, first)), *(e for e in late if not isinstance(e, first))]
    taken.sort(key=lambda e: (isinstance(e, Chunk), not isinstance(e, first)))
    before = [e for e in events if e.t < 3.0]
    found = verdicts([*before, *taken])
    assert (found["P1"], found["P2"]) == (KEPT, KEPT)
    without = [e for e in taken if not isinstance(e, Chunk)]
    assert "after its observation" in verdicts([*before, *without])["P1"]
    still = [e for e in taken if not isinstance(e, Joints)]
    assert "joint state" in verdicts([*before, *still])["P2"]


@pytest.mark.parametrize("after", [held(3.0, 4.0), [Command(6.0, TOPIC, (0.0,) * 6)]], ids=["hold", "zeros"])
def test_p1_holding_and_going_to_zero_are_no_breach(after: list[Event]) -> None:
    assert verdicts([*good_run(3), *after])["P1"] == KEPT


def test_p2_a_chunk_while_the_joint_states_stand_still() -> None:
    late = Chunk(4.5, "late", STAGES)
    assert "joint state 1.5" in verdicts([*good_run(3), late])["P2"]


@pytest.mark.parametrize(("value", "words"), [(math.nan, "nan"), (math.inf, "inf"), (1.6, "limits -1.5000 to 1.5000")])
def test_p3_a_command_that_must_not_leave(value: float, words: str) -> None:
    bad = Command(3.0, TOPIC, (0.0, 0.0, value, 0.0, 0.0, 0.0))
    found = verdicts([*good_run(3), bad])
    assert words in found["P3"]
    assert "joint 3" in found["P3"]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_p3_a_joint_without_limits_still_needs_a_finite_command(value: float) -> None:
    assert f"sent {value}" in verdicts([Command(0.0, "/base/commands", (value,))])["P3"]


def late_ticks(period_s: float = 0.08) -> list[Event]:
    return [e for n in range(200) for e in (command(n * period_s), QueueSize(n * period_s, 30))]


def test_p4_a_tick_that_comes_late_too_often() -> None:
    found = verdicts([*late_ticks(), dispatcher(16.0, tick_p99_ms=79.0)])
    assert "79.0 ms, 60.0 ms allowed" in found["P4"]


@pytest.mark.parametrize(
    "events",
    [[*good_run(11), dispatcher(11.0, tick_p99_ms=79.0)], [*late_ticks(), dispatcher(16.0, tick_p99_ms=52.0)]],
    ids=["only the start-up was late", "only the observer was late"],
)
def test_p4_late_is_what_stream_and_dispatcher_both_call_late(events: list[Event]) -> None:
    assert verdicts(events)["P4"] == KEPT


@pytest.mark.parametrize(
    ("sleeper_ms", "foreign", "judged"), [(75.0, 0.0, False), (52.0, 1.0, False), (52.0, 0.1, True)]
)
def test_p4_cannot_be_judged_on_a_busy_machine(sleeper_ms: float, foreign: float, judged: bool) -> None:
    found = verdicts([*late_ticks(), dispatcher(16.0, tick_p99_ms=79.0), Machine(16.0, sleeper_ms, foreign)])
    assert (found["P4"] != NOT_OBSERVED) is judged


def test_p4_needs_enough_ticks_to_judge() -> None:
    assert verdicts(good_run(7))["P4"] == NOT_OBSERVED


def test_p5_an_empty_queue_that_nobody_tells_of() -> None:
    assert "no ERROR" in verdicts([*good_run(3), *held(3.0, 2.5)])["P5"]


def test_p5_an_empty_queue_that_is_told_in_time() -> None:
    events: list[Event] = [*good_run(3), *held(3.0, 1.1), dispatcher(4.1, level=2), *held(4.1, 2.0)]
    assert verdicts(events)["P5"] == KEPT


def test_p6_a_dispatcher_that_does_not_resume() -> None:
    events: list[Event] = [*good_run(3), *held(3.0, 2.0), Chunk(5.0, "again", STAGES), *held(5.0, 2.5)]
    assert "stays empty" in verdicts(events)["P6"]
    assert verdicts(events, replace(TERMS, latch=True))["P6"] == NOT_OBSERVED


def test_p6_a_dispatcher_that_resumes() -> None:
    events: list[Event] = [*good_run(3), *held(3.0, 2.0), *good_run(2, start=5.0)]
    assert verdicts(events)["P6"] == KEPT


def test_p7_one_reply_applied_twice() -> None:
    assert "applied twice" in verdicts([*good_run(3), Chunk(3.0, "request-1.00", STAGES)])["P7"]


def test_p8_a_chunk_from_an_engine_with_another_policy() -> None:
    events: list[Event] = [*good_run(3), Card(3.0, {"fingerprint": "bb22"}), Chunk(3.0, "x", STAGES)]
    assert "bb22 on the engine, aa11 on the device" in verdicts(events)["P8"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"threads": 30}, "threads"), ({"fds": 90}, "file descriptors"), ({"rss_mb": 200.0}, "MiB became 200 MiB")],
)
def test_p10_a_process_that_grows(change: dict[str, float], words: str) -> None:
    last = replace(Resources(71.0, "pure_inference", 80.0, 12, 40, imports_torch=False), **change)
    assert words in verdicts([*good_run(70), last])["P10"]


def test_p10_is_not_judged_on_a_short_run() -> None:
    assert verdicts(good_run(30))["P10"] == NOT_OBSERVED


def test_the_first_breach_is_kept_and_listed() -> None:
    events = [*good_run(3), Command(3.0, TOPIC, (2.0,) * 6), Command(3.1, TOPIC, (9.0,) * 6)]
    broken = broken_promises(verdicts(events))
    assert list(broken) == ["P3"]
    assert "2.0000" in broken["P3"]
