"""Actions of every transport: each goal ends once, whatever happens to its server or client."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from transport_rig import (
    INFER,
    TRANSPORTS,
    Nodes,
    Outcome,
    goal,
    open_nodes,
    peer,
    result,
    wait_for,
    wait_ready,
)

from inference_service.transport.protocol import GoalStatus, ServerGoal


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, domain_id: int) -> str:
    return str(request.param)


@pytest.fixture
def nodes(transport: str) -> Iterator[Nodes]:
    with open_nodes(transport) as made:
        yield made


class Server:
    """An action server that counts goals, doubles the prompt and obeys prompts that ask for trouble."""

    def __init__(self, nodes: Nodes, **options: Any) -> None:
        self.goals: list[ServerGoal] = []
        self.node = nodes("server")
        self.node.create_action_server("/infer", INFER, self.execute, **options)

    def execute(self, one: ServerGoal) -> tuple[GoalStatus, Any]:
        self.goals.append(one)
        prompt = one.request.prompt
        if prompt == "raise":
            raise RuntimeError("model fell over")
        while prompt == "wait" and not one.cancel_requested:
            time.sleep(0.005)
        if one.cancel_requested:
            return GoalStatus.CANCELED, result("canceled", success=False)
        return (GoalStatus.ABORTED if prompt == "abort" else GoalStatus.SUCCEEDED), result(prompt * 2)


def _client(nodes: Nodes, name: str = "client") -> Any:
    client = nodes(name).create_action_client("/infer", INFER)
    wait_ready(client)
    return client


def _outcome(client: Any, prompt: str) -> tuple[GoalStatus, Any]:
    outcome = Outcome()
    client.send_goal(goal(prompt), outcome)
    return outcome.wait()


def test_a_goal_succeeds_with_its_result(nodes: Nodes) -> None:
    server, client = Server(nodes), _client(nodes)
    status, message = _outcome(client, "ab")
    assert (status, message.message, message.success) == (GoalStatus.SUCCEEDED, "abab", True)
    assert len(server.goals) == 1


def test_a_goal_may_abort(nodes: Nodes) -> None:
    Server(nodes)
    status, message = _outcome(_client(nodes), "abort")
    assert (status, message.message) == (GoalStatus.ABORTED, "abortabort")


def test_an_exception_in_execute_aborts_the_goal_and_is_counted(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    server, client = Server(nodes), _client(nodes)
    with caplog.at_level(logging.ERROR, "server"):
        status, message = _outcome(client, "raise")
    assert (status, message.success) == (GoalStatus.ABORTED, False)
    assert server.node.errors == 1
    assert "model fell over" in caplog.text
    assert _outcome(client, "x")[0] == GoalStatus.SUCCEEDED


def test_a_goal_that_is_not_accepted_is_rejected_without_a_result(nodes: Nodes) -> None:
    server = Server(nodes, accept=lambda request: request.prompt != "bad")
    client = _client(nodes)
    assert _outcome(client, "bad") == (GoalStatus.UNKNOWN, None)
    assert _outcome(client, "good")[0] == GoalStatus.SUCCEEDED
    assert [one.request.prompt for one in server.goals] == ["good"]


def test_goals_beyond_the_limit_are_rejected(nodes: Nodes) -> None:
    server = Server(nodes, max_concurrent=1)
    client, first = _client(nodes), Outcome()
    handle = client.send_goal(goal("wait"), first)
    wait_for(lambda: server.goals, "the first goal")
    assert _outcome(client, "x") == (GoalStatus.UNKNOWN, None)
    handle.cancel()
    first.wait()
    assert _outcome(client, "x")[0] == GoalStatus.SUCCEEDED


def test_cancel_reaches_the_goal_and_its_result_comes_back_once(nodes: Nodes) -> None:
    server, client, outcome = Server(nodes), _client(nodes), Outcome()
    handle = client.send_goal(goal("wait"), outcome)
    wait_for(lambda: server.goals, "the goal")
    handle.cancel()
    handle.cancel()
    status, message = outcome.wait()
    assert (status, message.message) == (GoalStatus.CANCELED, "canceled")
    time.sleep(0.1)
    assert len(outcome.calls) == 1


def test_cancel_right_after_send_cancels(nodes: Nodes) -> None:
    Server(nodes)
    client, outcome = _client(nodes), Outcome()
    client.send_goal(goal("wait"), outcome).cancel()
    assert outcome.wait()[0] == GoalStatus.CANCELED


def test_two_clients_get_their_own_results(nodes: Nodes) -> None:
    Server(nodes)
    first, second = _client(nodes, "first"), _client(nodes, "second")
    outcomes = {text: Outcome() for text in ("a", "b", "c", "d")}
    for index, (text, outcome) in enumerate(outcomes.items()):
        (first, second)[index % 2].send_goal(goal(text), outcome)
    assert {text: outcome.wait()[1].message for text, outcome in outcomes.items()} == {
        text: text * 2 for text in "abcd"
    }


def test_feedback_may_be_published_while_executing(nodes: Nodes) -> None:
    from inference_service.wire.interfaces import new_message

    got: list[Any] = []

    def execute(one: ServerGoal) -> tuple[GoalStatus, Any]:
        wait_for(lambda: watching.matched, "the watcher of feedback")
        one.publish_feedback(new_message(f"{INFER}_Feedback", progress=0.5, status="half"))
        return GoalStatus.SUCCEEDED, result()

    nodes("server").create_action_server("/infer", INFER, execute)
    watching = nodes("watcher").create_subscription("/infer/_action/feedback", f"{INFER}_FeedbackMessage", got.append)
    client, outcome = _client(nodes), Outcome()
    handle = client.send_goal(goal(), outcome)
    assert outcome.wait()[0] == GoalStatus.SUCCEEDED
    wait_for(lambda: got, "feedback")
    assert (bytes(got[0].goal_id.uuid), got[0].feedback.status) == (handle.goal_id, "half")


def test_the_status_topic_tells_a_late_joiner_how_goals_ended(nodes: Nodes) -> None:
    from inference_service.transport.protocol import QoS

    Server(nodes)
    client = _client(nodes)
    for prompt in ("x", "abort"):
        _outcome(client, prompt)
    got: list[list[int]] = []
    nodes("late").create_subscription(
        "/infer/_action/status",
        "action_msgs/msg/GoalStatusArray",
        lambda m: got.append([entry.status for entry in m.status_list]),
        QoS(depth=1, durability="transient_local"),
    )
    wait_for(lambda: [GoalStatus.SUCCEEDED, GoalStatus.ABORTED] in got, "both ends")


def test_the_status_topic_tells_each_step_of_a_goal(nodes: Nodes) -> None:
    server, client, outcome = Server(nodes), _client(nodes), Outcome()
    seen: list[int] = []

    def keep(message: Any) -> None:
        seen.extend(entry.status for entry in message.status_list if entry.status not in seen[-1:])

    watching = nodes("watcher").create_subscription("/infer/_action/status", "action_msgs/msg/GoalStatusArray", keep)
    wait_for(lambda: watching.matched, "the status topic")
    handle = client.send_goal(goal("wait"), outcome)
    wait_for(lambda: GoalStatus.EXECUTING in seen, "the goal to be executing")
    wait_for(lambda: server.goals, "the goal")
    handle.cancel()
    wait_for(lambda: GoalStatus.CANCELED in seen, "the end")
    # Only the latest status is kept for a slow reader, so any step between two may be missing.
    assert seen == sorted(seen)


def test_a_server_is_ready_without_blocking_and_no_longer_once_it_closed(nodes: Nodes) -> None:
    client = nodes("client").create_action_client("/infer", INFER)
    start = time.monotonic()
    assert not client.server_is_ready
    assert time.monotonic() - start < 1
    server = Server(nodes)
    wait_ready(client)
    server.node.close()
    wait_for(lambda: not client.server_is_ready, "the server to be missed")


def test_a_goal_without_a_server_returns_at_once_and_has_no_result(nodes: Nodes) -> None:
    client, outcome = nodes("client").create_action_client("/infer", INFER), Outcome()
    handle = client.send_goal(goal(), outcome)
    handle.cancel()
    time.sleep(0.2)
    assert outcome.calls == []


def test_closing_the_server_aborts_its_goals(nodes: Nodes) -> None:
    server, client, outcome = Server(nodes), _client(nodes), Outcome()
    client.send_goal(goal("wait"), outcome)
    wait_for(lambda: server.goals, "the goal")
    time.sleep(1.0)  # until the client has asked for the result; one that has not learns of the end by silence
    server.node.close()
    assert outcome.wait()[0] == GoalStatus.ABORTED
    assert server.goals[0].cancel_requested


def test_a_client_that_is_killed_leaves_the_server_at_work_for_others(nodes: Nodes, transport: str) -> None:
    server = Server(nodes)
    with peer(transport, "action_client") as process:
        wait_for(lambda: server.goals, "the goal of the other process")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert _outcome(_client(nodes), "x")[0] == GoalStatus.SUCCEEDED
    assert server.node.errors == 0


def test_a_killed_server_gives_no_result_and_its_successor_serves(nodes: Nodes, transport: str) -> None:
    client, lost = nodes("client").create_action_client("/infer", INFER), Outcome()
    with peer(transport, "action_server"):
        wait_ready(client)
        client.send_goal(goal("wait"), lost)
        time.sleep(0.2)
    with peer(transport, "action_server"):
        answered = threading.Event()

        def ask() -> bool:
            # The dead server counts as matched until its lease ends, so this goal may go to nobody.
            client.send_goal(goal("again"), lambda status, _: status == GoalStatus.SUCCEEDED and answered.set())
            return answered.wait(0.5)

        wait_for(ask, "a result of the second server")
    assert lost.calls == []
