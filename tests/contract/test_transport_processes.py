"""Every transport between two processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transport_rig import IMAGE, INFER, TRANSPORTS, Outcome, goal, open_nodes, peer, wait_for, wait_ready

from inference_service.transport.protocol import GoalStatus
from inference_service.wire.interfaces import new_message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_large_messages_go_there_and_back(transport: str, domain_id: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, 1_843_200, np.uint8)
    got: list[Any] = []
    with open_nodes(transport) as nodes, peer(transport, "echo"):
        node = nodes("asker")
        answers = node.create_subscription("/answer", IMAGE, got.append)
        questions = node.create_publisher("/question", IMAGE)
        wait_for(lambda: questions.matched and answers.matched, "the other process")
        for number in range(5):
            questions.publish(new_message(IMAGE, height=number, data=pixels))
            wait_for(lambda number=number: len(got) == number + 1, f"answer {number}")
    assert [message.height for message in got] == list(range(5))
    assert all(np.array_equal(message.data, pixels) for message in got)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_action_is_served_and_canceled_by_another_process(transport: str, domain_id: int) -> None:
    with open_nodes(transport) as nodes, peer(transport, "action_server"):
        client = nodes("client").create_action_client("/infer", INFER)
        wait_ready(client)
        done, canceled = Outcome(), Outcome()
        handle = client.send_goal(goal("wait"), canceled)
        client.send_goal(goal("hi"), done)
        assert (done.wait()[0], done.wait()[1].message) == (GoalStatus.SUCCEEDED, "hihi")
        handle.cancel()
        assert canceled.wait()[0] == GoalStatus.CANCELED
