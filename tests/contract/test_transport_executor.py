"""Threads of every transport: groups do not disturb each other, nothing survives ``close``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transport_rig import INFER, STRING, TRANSPORTS, Nodes, Outcome, goal, open_nodes, result, wait_for, wait_ready

from inference_service.transport.protocol import GoalStatus, ServerGoal
from inference_service.wire.interfaces import new_message


@pytest.fixture(params=TRANSPORTS)
def nodes(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Nodes]:
    with open_nodes(request.param) as made:
        yield made


def test_a_slow_callback_does_not_delay_the_timer_of_another_group(nodes: Nodes) -> None:
    node, ticks = nodes("node"), []
    entered, release = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        entered.set()
        release.wait(20)

    node.create_subscription("/text", STRING, slow)
    publisher = node.create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    node.create_timer(0.01, lambda: ticks.append(1), group="control")
    publisher.publish(new_message(STRING, data="x"))
    assert entered.wait(5)
    before = len(ticks)
    wait_for(lambda: len(ticks) >= before + 20, "ticks while the other group is busy")
    release.set()


def test_callbacks_of_one_group_never_overlap(nodes: Nodes) -> None:
    node, inside, overlaps, done = nodes("node"), [], [], []

    def enter(_: object = None) -> None:
        overlaps.extend(inside)
        inside.append(threading.get_ident())
        time.sleep(0.003)
        inside.pop()
        done.append(threading.get_ident())

    node.create_subscription("/text", STRING, enter, group="shared")
    node.create_timer(0.002, enter, group="shared")
    publisher = node.create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    for _ in range(20):
        publisher.publish(new_message(STRING, data="x"))
        time.sleep(0.004)
    wait_for(lambda: len(done) >= 20, "callbacks")
    assert overlaps == []
    assert len(set(done)) == 1


def test_missed_periods_are_skipped_and_the_grid_is_kept(nodes: Nodes) -> None:
    node, starts = nodes("node"), []

    def tick() -> None:
        starts.append(time.monotonic())
        if len(starts) == 2:
            time.sleep(0.25)  # misses two and a half periods

    timer = node.create_timer(0.1, tick, group="control")
    wait_for(lambda: len(starts) >= 4, "four ticks")
    timer.cancel()
    gap = starts[2] - starts[1]
    assert gap > 0.25, "a missed period was made up"
    phase = (starts[2] - starts[0]) / 0.1
    assert abs(phase - round(phase)) < 0.45, "the grid was lost"
    count = len(starts)
    time.sleep(0.25)
    assert len(starts) <= count + 1, "a cancelled timer goes on"


def test_an_exception_in_a_callback_is_logged_counted_and_survived(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    node, got = nodes("careful_node"), []

    def fragile(message: object) -> None:
        got.append(message.data)  # type: ignore[attr-defined]
        if len(got) == 1:
            raise RuntimeError("spilled coffee")

    node.create_subscription("/text", STRING, fragile)
    publisher = node.create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    with caplog.at_level(logging.ERROR, "careful_node"):
        for text in ("one", "two"):
            publisher.publish(new_message(STRING, data=text))
        wait_for(lambda: got == ["one", "two"], "the message after the failure")
    assert node.errors == 1
    record = next(record for record in caplog.records if "spilled coffee" in record.getMessage())
    assert record.exc_info is not None
    assert "/text" in record.getMessage()


def test_a_failing_timer_goes_on_and_does_not_flood_the_log(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    node = nodes("node")

    def fail() -> None:
        raise RuntimeError("no")

    with caplog.at_level(logging.ERROR, "node"):
        node.create_timer(0.005, fail)
        wait_for(lambda: node.errors >= 20, "twenty failures")
    assert len(caplog.records) < node.errors


def test_sim_time_follows_the_clock_topic(nodes: Nodes) -> None:
    simulated, real = nodes("simulated", use_sim_time=True), nodes("real")
    assert simulated.now_ns() == 0
    assert abs(real.now_ns() - time.time_ns()) < 10**9
    publisher = real.create_publisher("/clock", "rosgraph_msgs/msg/Clock")
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(
        new_message(
            "rosgraph_msgs/msg/Clock", clock=new_message("builtin_interfaces/msg/Time", sec=12, nanosec=345_000_000)
        )
    )
    wait_for(lambda: simulated.now_ns() == 12_345_000_000, "the simulated time")


def test_close_ends_every_thread_with_work_in_flight(nodes: Nodes) -> None:
    before = set(threading.enumerate())
    node, other, busy, outcome = nodes("node"), nodes("other"), threading.Event(), Outcome()

    def execute(one: ServerGoal) -> tuple[GoalStatus, object]:
        busy.set()
        while not one.cancel_requested:
            time.sleep(0.005)
        return GoalStatus.CANCELED, result()

    node.create_action_server("/infer", INFER, execute)
    node.create_timer(0.001, lambda: None, group="control")
    node.create_subscription("/text", STRING, lambda _: time.sleep(0.05))
    publisher = other.create_publisher("/text", STRING)
    client = other.create_action_client("/infer", INFER)
    wait_ready(client)
    client.send_goal(goal("wait"), outcome)
    wait_for(lambda: busy.is_set() and publisher.matched, "work")
    for _ in range(5):
        publisher.publish(new_message(STRING, data="x"))
    start = time.monotonic()
    node.close()
    node.close()
    assert time.monotonic() - start < 2
    assert outcome.wait()[0] == GoalStatus.ABORTED
    other.close()
    assert set(threading.enumerate()) - before == set()


def test_close_returns_in_time_although_a_callback_hangs(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    node, entered, release = nodes("node"), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(20)

    node.create_timer(0.01, hang, group="stuck")
    assert entered.wait(5)
    start = time.monotonic()
    node.close()
    assert time.monotonic() - start < 2
    assert "stuck" in caplog.text
    release.set()


def test_a_node_may_be_closed_from_its_own_callback(nodes: Nodes) -> None:
    node, closed = nodes("node"), threading.Event()

    def close() -> None:
        node.close()
        closed.set()

    node.create_timer(0.01, close)
    assert closed.wait(5)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("node/")], "the threads to end")


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_file_descriptors_and_threads_stay_flat(nodes: Nodes) -> None:
    def once() -> None:
        node = nodes("node")
        node.create_subscription("/text", STRING, lambda _: None)
        node.create_publisher("/text", STRING).publish(new_message(STRING, data="x"))
        node.create_timer(1.0, lambda: None, group="control")
        node.close()

    for _ in range(3):
        once()
    descriptors, threads = _descriptors(), threading.active_count()
    for _ in range(20):
        once()
    assert _descriptors() <= descriptors
    assert threading.active_count() <= threads
