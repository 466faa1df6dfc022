"""What only the ``ros`` transport has to mind: rclpy's one executor thread, and handles that are gone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from transport_rig import INFER, TRANSPORTS, Nodes, Outcome, goal, open_nodes, result, wait_for, wait_ready

from inference_service.core.errors import TransportError
from inference_service.transport.protocol import GoalStatus, ServerGoal


@pytest.fixture(params=TRANSPORTS[1:])
def nodes(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Nodes]:
    with open_nodes(request.param) as made:
        yield made


def _lasting(one: ServerGoal) -> tuple[GoalStatus, Any]:
    while not one.cancel_requested:
        time.sleep(0.005)
    return GoalStatus.CANCELED, result()


def test_results_of_aborted_goals_are_sent_although_the_executor_is_late(nodes: Nodes) -> None:
    server, outcome = nodes("server"), Outcome()
    server.create_action_server("/infer", INFER, _lasting)
    client = nodes("client").create_action_client("/infer", INFER)
    wait_ready(client)
    running = threading.Event()
    client.send_goal(goal("x"), outcome)
    wait_for(lambda: server._servers[0]._running, "the goal")
    server._on_executor(lambda: (running.set(), time.sleep(0.5)))
    assert running.wait(10)
    server.close()
    assert outcome.wait()[0] == GoalStatus.ABORTED


def test_a_goal_may_be_cancelled_after_its_client_closed(nodes: Nodes) -> None:
    nodes("server").create_action_server("/infer", INFER, _lasting)
    node = nodes("client")
    client = node.create_action_client("/infer", INFER)
    wait_ready(client)
    handle = client.send_goal(goal("x"), lambda *_: None)
    node.close()
    handle.cancel()
    assert not client.server_is_ready


def test_an_order_that_fails_takes_no_other_along(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    node, done = nodes("node"), threading.Event()

    def fail() -> None:
        raise RuntimeError("dropped the tray")

    with caplog.at_level(logging.ERROR, "node"):
        node._on_executor(fail)
        node._on_executor(done.set)
        assert done.wait(10)
    assert node.errors == 1
    assert "dropped the tray" in caplog.text


def test_a_service_that_failed_answers_nothing_and_holds_nobody_up(nodes: Nodes) -> None:
    from inference_service.wire.interfaces import new_message

    def fail(_: Any) -> Any:
        raise RuntimeError("no")

    node, answers = nodes("server"), []
    node.create_service("/reset", "std_srvs/srv/Empty", fail)
    client = nodes("client").create_client("/reset", "std_srvs/srv/Empty")
    wait_for(lambda: client.is_ready, "the service")
    client.call(new_message("std_srvs/srv/Empty_Request"), answers.append)
    wait_for(lambda: node.errors == 2, "the callback's failure, and rclpy's for want of an answer")
    assert not answers


def test_a_type_that_is_not_installed_says_how_to_get_it(nodes: Nodes) -> None:
    with pytest.raises(TransportError, match=r"ibrobot_msgs.*colcon.*transport:=dds"):
        nodes("node").create_publisher("/x", "ibrobot_msgs/msg/Unheard")


def test_auto_chooses_rclpy_where_it_is_importable(nodes: Nodes) -> None:
    from inference_service.transport import create_node

    node = create_node("chosen", "auto")
    assert type(node).__name__ == "RosNode"
    node.close()
