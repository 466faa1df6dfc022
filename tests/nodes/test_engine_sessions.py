"""Whose session it is, when it is over, and who sends how much."""

from __future__ import annotations

import pytest

from inference_service.nodes.engine_sessions import IDLE_S, MAX_SESSIONS, SessionTable


class Clocked:
    def __init__(self) -> None:
        self.now = 1000.0
        self.conflicts: list[str] = []
        self.table = SessionTable(self.conflicts.append, lambda: self.now)

    def later(self, seconds: float) -> list[str]:
        self.now += seconds
        return self.table.take_ended()


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


def test_a_device_that_starts_again_ends_its_session(clocked: Clocked) -> None:
    clocked.table.note("s1", "arm")
    clocked.table.note("s1", "arm")
    clocked.table.note("t1", "other")
    assert clocked.later(0.0) == []
    clocked.table.note("s2", "arm")
    assert clocked.later(0.0) == ["s1"]
    assert clocked.later(0.0) == [], "told twice"
    assert len(clocked.table) == 2


def test_a_silent_session_ends_and_may_come_back(clocked: Clocked) -> None:
    clocked.table.note("s1", "arm")
    clocked.table.note("t1", "other")
    assert clocked.later(IDLE_S - 1) == []
    clocked.table.note("t1", "other")
    assert clocked.later(1.0) == ["s1"]
    clocked.table.note("s1", "arm")
    assert clocked.later(0.0) == [] and clocked.conflicts == []


def test_two_devices_of_one_name_do_not_end_each_other_s_sessions(clocked: Clocked) -> None:
    """Each would lose its history at every request of the other."""
    clocked.table.note("s1", "arm")
    clocked.table.note("s2", "arm")
    assert clocked.later(0.0) == ["s1"], "looks like a restart"
    for session in ("s1", "s2"):
        clocked.table.note(session, "arm")
        assert clocked.conflicts == [] and len(clocked.later(0.0)) == 1
    for _ in range(3):
        clocked.table.note("s1", "arm")
        clocked.table.note("s2", "arm")
        assert clocked.later(0.1) == []
    assert clocked.conflicts == ["arm"]


def test_a_late_request_of_the_session_before_is_no_conflict(clocked: Clocked) -> None:
    for session in ("s1", "s2", "s1", "s2", "s2"):
        clocked.table.note(session, "arm")
    assert clocked.conflicts == []
    clocked.table.note("s3", "arm")
    assert clocked.later(0.0)[-1] == "s2"


def test_many_sessions_are_bounded_and_none_is_kept_in_secret(clocked: Clocked) -> None:
    for number in range(MAX_SESSIONS + 5):
        clocked.table.note(f"s{number}", f"d{number}")
    assert len(clocked.table) == len(clocked.table.devices()) == MAX_SESSIONS
    assert clocked.later(0.0) == [f"s{number}" for number in range(5)]


def test_what_devices_send_is_counted(clocked: Clocked) -> None:
    for _ in range(41):
        clocked.table.note("s1", "arm")
        clocked.now += 0.05
    clocked.table.note("t1", "other")
    clocked.table.count_served("arm")
    assert clocked.table.count_refused("arm")
    arm = clocked.table.devices()["arm"]
    assert (arm.received, arm.served, arm.refused) == (41, 1, 1)
    assert arm.rate_hz == pytest.approx(20.0, rel=0.1)
    assert list(clocked.table.devices()) == ["other", "arm"]


def test_a_device_that_is_refused_all_the_time_is_not_told_each_time(clocked: Clocked) -> None:
    """Every device hears every reply: a flood of refusals would drown the others' answers."""
    told = 0
    for _ in range(10_000):
        clocked.now += 0.001
        told += clocked.table.count_refused("bad")
    assert 900 <= told <= 1200
    assert clocked.table.count_refused("good")
    bad = clocked.table.devices()["bad"]
    assert bad.refused == 10_000 and bad.unanswered == 10_000 - told
