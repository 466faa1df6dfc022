"""What others do wrong, on every transport: said once and by name, counted, and the next good message works.

The peers that do wrong are of the ``dds`` transport, whose parts can be made to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from transport_rig import INFER, STRING, TRANSPORTS, Nodes, Outcome, goal, open_nodes, result, wait_for, wait_ready

from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.transport.dds.services import encode
from inference_service.transport.protocol import GoalStatus, Node, QoS
from inference_service.wire.interfaces import new_message


@pytest.fixture(params=TRANSPORTS)
def ours(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Node]:
    with open_nodes(request.param) as nodes:
        yield nodes("ours")


@pytest.fixture
def peers(ours: Node) -> Iterator[Nodes]:
    with open_nodes("dds") as made:
        yield made


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Warnings of our node so far."""
    with caplog.at_level(logging.WARNING, "ours"):
        yield lambda: [one.getMessage() for one in caplog.records if one.name == "ours"]


def _listen(ours: Node) -> list[str]:
    got: list[str] = []
    ours.create_subscription("/text", STRING, lambda m: got.append(m.data))
    return got


def _good_message_works(peers: Nodes, got: list[str]) -> None:
    publisher = peers("good").create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(new_message(STRING, data="good"))
    wait_for(lambda: got[-1:] == ["good"], "the good message")


def _counted(ours: Node, peers: Nodes, key: str, value: str) -> None:
    """What ``/diagnostics`` says of our node."""
    told: list[dict[str, str]] = []
    peers("watcher").create_subscription(
        "/diagnostics",
        "diagnostic_msgs/msg/DiagnosticArray",
        lambda m: told.extend({pair.key: pair.value for pair in one.values} for one in m.status),
    )
    diagnostics = DiagnosticsPublisher(ours, lambda: [Status(Level.OK, "ours", "fine", {})], 0.1)
    wait_for(lambda: any(one.get(key) == value for one in told), f"{key} = {value}, told: {told[-1:]}")
    diagnostics.close()


def test_a_peer_of_another_qos(ours: Node, peers: Nodes, warned: Any) -> None:
    got = _listen(ours)
    camera = peers("camera")
    for _ in range(2):
        camera.create_publisher("/text", STRING, QoS(reliability="best_effort"))
    wait_for(lambda: ours.conflicts, "the report")
    _good_message_works(peers, got)
    assert len(warned()) == 1
    assert "/text" in warned()[0] and "RELIABILITY" in warned()[0].upper()
    _counted(ours, peers, "peer_conflicts", "1")


def test_another_type_on_our_topic_name(ours: Node, peers: Nodes, warned: Any) -> None:
    got = _listen(ours)
    peers("wrong").create_publisher("/text", "std_msgs/msg/Bool")
    wait_for(lambda: ours.conflicts, "the report")
    _good_message_works(peers, got)
    assert len(warned()) == 1
    assert all(word in warned()[0] for word in ("/text", "/wrong", "Bool"))
    _counted(ours, peers, "peer_conflicts", "1")


def test_a_node_name_already_taken(ours: Node, peers: Nodes, warned: Any) -> None:
    got = _listen(ours)
    peers("ours")
    wait_for(lambda: ours.conflicts, "the report")
    _good_message_works(peers, got)
    assert "another node is named /ours" in ours.conflicts[0]
    _counted(ours, peers, "peer_conflicts", "1")


def test_bytes_that_are_no_message(ours: Node, peers: Nodes, warned: Any) -> None:
    got = _listen(ours)
    publisher = peers("wrong").create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    for _ in range(2):
        publisher.publish_serialized(b"\0\1\0\0\4\0\0\0\xff\xfe\xfd\0")
    _good_message_works(peers, got)
    assert len(warned()) == 1
    assert warned()[0].startswith("/text: dropped a message")
    _counted(ours, peers, "malformed_messages", "2")


@pytest.fixture
def served(ours: Node) -> list[Any]:
    """Goals that our action server was given."""
    goals: list[Any] = []

    def execute(one: Any) -> tuple[GoalStatus, Any]:
        goals.append(one)
        return GoalStatus.SUCCEEDED, result("done")

    ours.create_action_server("/infer", INFER, execute)
    return goals


def _good_goal_works(peers: Nodes) -> None:
    client, outcome = peers("good").create_action_client("/infer", INFER), Outcome()
    wait_ready(client)
    client.send_goal(goal("x"), outcome)
    assert outcome.wait()[0] == GoalStatus.SUCCEEDED


def _uuid(data: bytes) -> Any:
    return new_message("unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(data, np.uint8))


def test_a_goal_with_an_empty_id(ours: Node, peers: Nodes, served: list[Any], warned: Any) -> None:
    client = peers("wrong").create_client("/infer/_action/send_goal", f"{INFER}_SendGoal")
    wait_for(lambda: client.is_ready, "the server")
    request = new_message(f"{INFER}_SendGoal_Request", goal_id=_uuid(bytes(16)), goal=goal("x"))
    for _ in range(2):
        client.call(request, lambda _: None)
    wait_for(lambda: ours.conflicts, "the report")
    _good_goal_works(peers)
    assert [one.goal_id != bytes(16) for one in served] == [True]
    assert len(warned()) == 1
    assert warned()[0].startswith("/infer: a client sends goals without an id")
    _counted(ours, peers, "peer_conflicts", "1")


def test_a_cancel_for_an_unknown_goal(ours: Node, peers: Nodes, served: list[Any]) -> None:
    answers: list[Any] = []
    cancel = "action_msgs/srv/CancelGoal"
    client = peers("wrong").create_client("/infer/_action/cancel_goal", cancel)
    wait_for(lambda: client.is_ready, "the server")
    info = new_message("action_msgs/msg/GoalInfo", goal_id=_uuid(bytes(range(16))))
    for _ in range(2):
        client.call(new_message(f"{cancel}_Request", goal_info=info), answers.append)
    wait_for(lambda: len(answers) == 2, "the answers")
    assert [(one.return_code, list(one.goals_canceling)) for one in answers] == [(2, [])] * 2
    _good_goal_works(peers)
    assert ours.conflicts == ["/infer: a client cancels goals that are not known here: nothing to cancel"]
    _counted(ours, peers, "peer_conflicts", "1")


def test_a_request_with_text_that_does_not_decode(ours: Node, peers: Nodes, served: list[Any]) -> None:
    client = peers("wrong").create_client("/infer/_action/send_goal", f"{INFER}_SendGoal")
    wait_for(lambda: client.is_ready, "the server")
    kind = f"{INFER}_SendGoal_Request"
    good = new_message(kind, goal_id=_uuid(bytes(range(16))), goal=goal("marker"))
    for _ in range(2):
        client._writer.write(encode(1, 1, good, kind).replace(b"marker", b"\xff\xfe\xfd\xfc\xfb\xfa"))
    if type(ours).__name__ == "DdsNode":
        wait_for(lambda: ours.malformed == 2, "both to be counted")
    else:  # rclpy makes U+FFFD of what is no UTF-8; the second has the id of the first
        wait_for(lambda: served, "the goal")
        assert served.pop().request.prompt not in ("", "marker")
    _good_goal_works(peers)
    assert len(served) == 1
