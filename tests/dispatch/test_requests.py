"""Requests: one at a time, each with a name and a deadline of its own, and a pause after failures."""

from __future__ import annotations

import pytest

from inference_service.dispatch.requests import REMEMBERED, Backoff, Match, RequestTracker


def tracker() -> RequestTracker:
    return RequestTracker("me", Backoff(100, 1000))


def test_one_in_flight_at_a_time_each_with_its_own_name() -> None:
    requests = tracker()
    first = requests.start(3, 10, 60, 999)
    assert (first.request_id, first.tick, first.sent_ns, first.deadline_ns, first.obs_stamp_ns) == (
        "me-1", 3, 10, 60, 999,
    )  # fmt: skip
    assert not requests.may_start(11)
    requests.close(answered=True)
    assert requests.start(4, 12, 62, 1000).request_id == "me-2"


def test_a_new_episode_shows_in_the_names_and_late_answers_are_still_known() -> None:
    requests = tracker()
    requests.start(0, 0, 60, 0)
    requests.close(answered=False)
    requests.new_episode()
    assert requests.start(1, 10, 70, 0).request_id == "me.1-2"
    assert requests.match("me-1") is Match.LATE


def test_overdue_at_its_deadline() -> None:
    requests = tracker()
    assert not requests.overdue(10**9)
    requests.start(0, 10, 60, 0)
    assert [requests.overdue(t) for t in (59, 60, 61)] == [False, True, True]


def test_each_answer_is_told_from_the_others() -> None:
    requests = tracker()
    timed_out = requests.start(0, 0, 5, 0).request_id
    requests.close(answered=False)
    answered = requests.start(1, 0, 5, 0).request_id
    requests.close(answered=True)
    current = requests.start(2, 0, 5, 0).request_id
    found = [requests.match(i) for i in (timed_out, answered, current, "other-3", "me-99")]
    assert found == [Match.LATE, Match.DUPLICATE, Match.CURRENT, Match.FOREIGN, Match.FOREIGN]


def test_memory_of_closed_requests_is_bounded() -> None:
    requests = tracker()
    for _ in range(REMEMBERED + 10):
        requests.start(0, 0, 5, 0)
        requests.close(answered=True)
    assert requests.match("me-1") is Match.FOREIGN
    assert requests.match(f"me-{REMEMBERED}") is Match.DUPLICATE


@pytest.mark.parametrize(("failures", "delay"), [(0, 0), (1, 100), (2, 200), (4, 800), (5, 1000), (400, 1000)])
def test_pauses_grow_to_a_limit(failures: int, delay: int) -> None:
    assert Backoff(100, 1000).delay_ns(failures) == delay


def test_a_success_ends_the_pause_and_tells_how_many_failed() -> None:
    requests = tracker()
    requests.failed(0)
    requests.failed(0)
    assert not requests.may_start(199)
    assert requests.may_start(200)
    assert requests.succeeded() == 2
    assert requests.may_start(0)
