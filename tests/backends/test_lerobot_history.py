"""Histories of sessions: filled as LeRobot's queues are, bounded, and begun anew after a pause."""

from __future__ import annotations

import logging

import pytest

from inference_service.backends.lerobot_history import Frame, Histories


def seen(histories: Histories, session: str, value: int, stamp_ns: int | None = None) -> list[int]:
    """The values that a request may look back on, itself included."""
    frame: Frame = {"x": value}
    history = histories.look_up(session, stamp_ns)
    window = [entry["x"] for entry in histories.window(history, frame)]
    histories.remember(session, frame, stamp_ns, history)
    return window


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_first_observation_fills_the_history(length: int) -> None:
    """``populate_queues`` of lerobot 0.6.1, in two lines."""
    histories, queue = Histories(length), [0] * length
    for value in range(7):
        queue = [*queue, value][-length:]
        assert seen(histories, "robot", value) == queue


def test_sessions_do_not_mix() -> None:
    histories = Histories(2)
    assert [seen(histories, name, value) for value, name in enumerate("abab")] == [[0, 0], [1, 1], [0, 2], [1, 3]]
    histories.forget("a")
    assert seen(histories, "a", 9) == [9, 9]


def test_the_session_that_was_silent_longest_is_dropped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    histories = Histories(2, sessions=2)
    for value, name in enumerate("aba"):
        seen(histories, name, value)
    with caplog.at_level(logging.WARNING):
        seen(histories, "c", 3)
    assert "dropped that of session b" in caplog.text
    assert seen(histories, "a", 4) == [2, 4]
    assert seen(histories, "b", 5) == [5, 5]


def test_a_pause_or_a_clock_set_back_begins_a_history_anew(caplog: pytest.LogCaptureFixture) -> None:
    histories, second = Histories(2, gap_s=1.0), 1_000_000_000
    stamps = [10 * second, 11 * second, 12 * second + 1, 5 * second, None, 5 * second]
    with caplog.at_level(logging.WARNING):
        windows = [seen(histories, "robot", value, stamp) for value, stamp in enumerate(stamps)]
    assert windows == [[0, 0], [0, 1], [2, 2], [3, 3], [3, 4], [4, 5]]
    assert caplog.text.count("begins anew") == 1
