"""Who waits for the engine, and in which order."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np

from inference_service.nodes.request_line import RequestLine, Waiting
from inference_service.wire.envelope import Request


def waiting(session: str, number: int, size: int = 6, device: str | None = None) -> Waiting:
    batch = {"observation.state": np.zeros((1, size), np.float32)}
    own = f"device of {session}" if session else ""
    request = Request(f"{session}{number}", batch, device_id=own if device is None else device, session=session)
    return Waiting(request, received=0.0, decode_ms=0.0)


def ids(line: RequestLine) -> list[str]:
    return [w.request.request_id for w in line.drain()]


def test_only_the_newest_of_a_session_waits() -> None:
    line = RequestLine()
    assert line.put(waiting("a", 1)) is None
    displaced = line.put(waiting("a", 2))
    assert displaced is not None and displaced.request.request_id == "a1"
    assert ids(line) == ["a2"]


def test_a_session_that_sends_often_does_not_push_others_back() -> None:
    line = RequestLine()
    line.put(waiting("a", 1))
    line.put(waiting("b", 1))
    line.put(waiting("a", 2))
    assert [w.request.request_id for w in line.take(0.0)] == ["a2"]
    line.put(waiting("a", 3))
    assert ids(line) == ["b1", "a3"]


def test_plain_requests_do_not_displace_each_other() -> None:
    line = RequestLine()
    for number in range(3):
        assert line.put(waiting("", number)) is None
    assert ids(line) == ["0", "1", "2"]


def test_a_full_line_gives_back_its_oldest() -> None:
    line = RequestLine(capacity=2)
    line.put(waiting("a", 1))
    line.put(waiting("b", 1))
    displaced = line.put(waiting("c", 1))
    assert displaced is not None and displaced.request.session == "a"


def test_taking_from_an_empty_line_returns_after_its_deadline() -> None:
    assert RequestLine().take(0.01) == []


def taken(line: RequestLine, most: int, wait_s: float = 0.0) -> list[str]:
    return [w.request.request_id for w in line.take(0.0, most, wait_s)]


def test_requests_of_equal_shape_leave_together_and_the_longest_waiting_decides() -> None:
    line = RequestLine()
    for session, size in (("a", 6), ("b", 7), ("c", 6), ("d", 6), ("e", 7)):
        line.put(waiting(session, 1, size))
    assert taken(line, 2) == ["a1", "c1"]
    assert taken(line, 8) == ["b1", "e1"]
    assert taken(line, 8) == ["d1"]


def test_under_load_every_session_is_served_as_often_as_another() -> None:
    """One session sends after every pass, another ten times as often, some have odd shapes: all have their turn."""
    line, served = RequestLine(), Counter[str]()
    sessions = {f"s{number}": 6 + number % 2 for number in range(7)}
    for turn in range(300):
        for session, size in sessions.items():
            for _ in range(10 if session == "s0" else 1):
                line.put(waiting(session, turn, size))
        for w in line.take(0.0, 3):
            served[w.request.session] += 1
    assert len(served) == 7
    assert min(served.values()) >= 0.67 * max(served.values()), served


def test_a_device_that_floods_in_the_plain_form_leaves_the_others_their_turn() -> None:
    line, served = RequestLine(), Counter[str]()
    for turn in range(200):
        for number in range(20):
            line.put(waiting("", turn * 100 + number))
        line.put(waiting("a", turn))
        for w in line.take(0.0):
            served[w.request.session] += 1
        assert len(line) <= 9
    assert served["a"] >= 0.67 * served[""], served


def test_a_device_that_makes_up_sessions_pushes_itself_out() -> None:
    line = RequestLine(capacity=4)
    line.put(waiting("honest", 1))
    for number in range(10):
        displaced = line.put(waiting(f"fake{number}", 1, device="bad"))
        assert displaced is None or displaced.request.device_id == "bad"
    assert "honest1" in ids(line)


def test_one_robot_alone_never_waits_for_others() -> None:
    line = RequestLine()
    for number in range(3):
        line.put(waiting("a", number))
        started = time.monotonic()
        assert taken(line, 8, wait_s=30.0) == [f"a{number}"]
        assert time.monotonic() - started < 10.0


def test_with_others_about_a_request_waits_for_theirs() -> None:
    line = RequestLine()
    line.put(waiting("a", 1))
    line.put(waiting("b", 1))
    assert taken(line, 8, wait_s=30.0) == ["a1", "b1"], "nobody else is there to wait for"
    line.put(waiting("a", 2))
    late = threading.Timer(0.05, line.put, [waiting("b", 2)])
    late.start()
    assert taken(line, 8, wait_s=30.0) == ["a2", "b2"]
    late.join()


def test_the_wait_for_others_ends() -> None:
    line = RequestLine()
    line.put(waiting("a", 1))
    line.put(waiting("b", 1))
    line.drain()
    line.put(waiting("a", 2))
    assert taken(line, 8, wait_s=0.05) == ["a2"]
