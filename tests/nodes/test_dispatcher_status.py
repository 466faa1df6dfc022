"""What the dispatcher's diagnostics say, and how loudly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_service.dispatch.report import Counters, State, Stats
from inference_service.dispatch.timing import TickTimes
from inference_service.nodes.diagnostics import Level
from inference_service.nodes.dispatcher_status import Outlook, judge, values

RUNNING = Stats(
    at_ns=10_000_000_000,
    state=State.RUNNING,
    latched=False,
    server_ready=True,
    smoothing=False,
    queue=30,
    starved_ms=0.0,
    observation_age_ms=120.0,
    avg_latency_ms=15.25,
    chunk_size=50,
    consecutive_failures=0,
    last_error="",
    obstacle="",
    rival="",
    counters=Counters(inferences=4, actions=90, hold_ticks=3),
    clamped={"1": 2, "6": 1},
)
NEVER_FED = replace(RUNNING, state=State.WAITING, counters=Counters())


def outlook(stats: Stats, **changes: object) -> Outlook:
    return replace(Outlook(stats, stats.at_ns), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stats", "level", "words"),
    [
        (RUNNING, Level.OK, "dispatching"),
        (NEVER_FED, Level.WARN, "waiting for the first inference"),
        (replace(NEVER_FED, server_ready=False), Level.WARN, "waiting for the inference server"),
        (replace(NEVER_FED, consecutive_failures=2, last_error="no engine"), Level.ERROR, "no engine"),
        (replace(NEVER_FED, obstacle="no joint state"), Level.ERROR, "no joint state"),
        (replace(RUNNING, rival="/arm"), Level.ERROR, "another node sends commands on /arm: stop one"),
        (replace(RUNNING, state=State.HOLDING, starved_ms=100), Level.WARN, "holding"),
        (replace(RUNNING, state=State.HOLDING, starved_ms=500), Level.ERROR, "no action for 0.5 s"),
        (replace(RUNNING, state=State.SAFE, starved_ms=100), Level.ERROR, "safe behaviour"),
        (replace(RUNNING, state=State.SAFE, latched=True), Level.ERROR, "call ~/reset"),
        (replace(RUNNING, state=State.WAITING, starved_ms=900), Level.ERROR, "no action for 0.9 s"),
        (replace(RUNNING, consecutive_failures=1, last_error="timeout: x"), Level.ERROR, "timeout: x"),
        (replace(RUNNING, server_ready=False), Level.ERROR, "inference server is gone"),
    ],
)
def test_level_and_message(stats: Stats, level: Level, words: str) -> None:
    found, message = judge(outlook(stats))
    assert found is level
    assert words in message


def test_a_tick_that_stopped_is_an_error_though_its_last_word_was_good() -> None:
    level, message = judge(outlook(RUNNING, now_ns=RUNNING.at_ns + 1_500_000_000))
    assert level is Level.ERROR
    assert "control tick has not run for 1.5 s" in message


def test_a_wrong_control_rate_warns_and_an_unsent_command_is_an_error() -> None:
    assert judge(outlook(RUNNING, rate_problem="30 Hz, 20 wanted")) == (Level.WARN, "30 Hz, 20 wanted")
    assert judge(outlook(RUNNING, send_failure="arm: not sent"))[0] is Level.ERROR


def test_values_are_numbers_as_strings() -> None:
    found = values(RUNNING, TickTimes(50.01, 51.2, 60.5, 70.0), 50.0)
    promised = {
        "state": "running", "queue": "30", "inferences": "4", "actions": "90", "hold_ticks": "3", "clamped": "3",
        "rejected_chunks": "0", "late_results": "0", "inference_timeouts": "0", "tick_period_ms": "50.000",
        "tick_p50_ms": "50.010", "tick_p99_ms": "51.200", "tick_p999_ms": "60.500", "tick_max_ms": "70.000",
        "observation_age_ms": "120.0", "last_error": "",
    }  # fmt: skip
    assert promised.items() <= found.items()
    assert found["clamped_joints"] == "1:2 6:1"
