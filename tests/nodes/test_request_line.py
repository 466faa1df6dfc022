"""Who waits for the engine, and in which order."""

from __future__ import annotations

from inference_service.nodes.request_line import RequestLine, Waiting
from inference_service.wire.envelope import Request


def waiting(session: str, number: int) -> Waiting:
    request = Request(request_id=f"{session}{number}", batch={}, device_id="d" if session else "", session=session)
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
