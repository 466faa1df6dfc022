"""Nodes of both transports in one graph: neither can tell what the other runs on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from transport_rig import INFER, STRING, TRANSPORTS, Nodes, Outcome, goal, open_nodes, result, wait_for, wait_ready

from inference_service.transport.protocol import GoalStatus, QoS, ServerGoal
from inference_service.wire.interfaces import new_message

ROS = TRANSPORTS[1]


@pytest.fixture(params=[ROS])
def ros(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Nodes]:
    with open_nodes(request.param) as made:
        yield made


@pytest.fixture
def dds(ros: Nodes) -> Iterator[Nodes]:
    with open_nodes("dds") as made:
        yield made


@pytest.fixture(params=["dds_to_ros", "ros_to_dds"])
def pair(request: pytest.FixtureRequest, ros: Nodes, dds: Nodes) -> tuple[Nodes, Nodes]:
    return (dds, ros) if request.param == "dds_to_ros" else (ros, dds)


def test_messages_pass(pair: tuple[Nodes, Nodes]) -> None:
    got: list[str] = []
    pair[1]("receiver").create_subscription("/text", STRING, lambda m: got.append(m.data))
    publisher = pair[0]("sender").create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(new_message(STRING, data="hello"))
    wait_for(lambda: got == ["hello"], "the message")


def test_goals_pass_with_feedback_cancel_and_result(pair: tuple[Nodes, Nodes]) -> None:
    def execute(one: ServerGoal) -> tuple[GoalStatus, Any]:
        while one.request.prompt == "wait" and not one.cancel_requested:
            one.publish_feedback(new_message(f"{INFER}_Feedback", progress=0.5))
        ended = GoalStatus.CANCELED if one.cancel_requested else GoalStatus.SUCCEEDED
        return ended, result(one.request.prompt * 2)

    feedback: list[Any] = []
    pair[1]("server").create_action_server("/infer", INFER, execute)
    node = pair[0]("client")
    node.create_subscription("/infer/_action/feedback", f"{INFER}_FeedbackMessage", feedback.append)
    client = node.create_action_client("/infer", INFER)
    wait_ready(client)
    done, canceled = Outcome(), Outcome()
    client.send_goal(goal("ab"), done)
    handle = client.send_goal(goal("wait"), canceled)
    wait_for(lambda: feedback, "feedback")
    handle.cancel()
    assert (done.wait()[0], done.wait()[1].message) == (GoalStatus.SUCCEEDED, "abab")
    assert canceled.wait()[0] == GoalStatus.CANCELED


def test_requests_pass(pair: tuple[Nodes, Nodes]) -> None:
    answers: list[Any] = []
    trigger = "std_srvs/srv/Trigger"
    pair[1]("server").create_service(
        "/reset", trigger, lambda _: new_message(f"{trigger}_Response", success=True, message="done")
    )
    client = pair[0]("client").create_client("/reset", trigger)
    wait_for(lambda: client.is_ready, "the service")
    client.call(new_message(f"{trigger}_Request"), answers.append)
    wait_for(lambda: answers, "the answer")
    assert answers[0].message == "done"


def test_another_qos_is_reported_once_on_both_sides(
    pair: tuple[Nodes, Nodes], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        wants, offers = pair[1]("wants"), pair[0]("offers")
        wants.create_subscription("/text", STRING, lambda _: None)
        offers.create_publisher("/text", STRING, QoS(reliability="best_effort"))
        wait_for(lambda: wants.conflicts and offers.conflicts, "both reports")
    for node in (wants, offers):
        assert len(node.conflicts) == 1
        assert node.conflicts[0].startswith("/text: ")
        assert "RELIABILITY" in node.conflicts[0].upper()


def test_a_name_that_is_taken_is_reported(pair: tuple[Nodes, Nodes]) -> None:
    first, second = pair[0]("twin"), pair[1]("twin")
    wait_for(lambda: first.conflicts and second.conflicts, "both reports")
    assert all(len(node.conflicts) == 1 and "/twin" in node.conflicts[0] for node in (first, second))
