"""The other process of the transport tests: ``transport_peer.py TRANSPORT ROLE``. Says ``ready``, then serves."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from inference_service.transport import create_node
from inference_service.transport.protocol import GoalStatus, Node, ServerGoal
from inference_service.wire.interfaces import new_message

INFER = "ibrobot_msgs/action/DispatchInfer"


def echo(node: Node) -> None:
    """Answers each image with the same pixels at the same stamp, mirrored in time by nothing else."""
    answers = node.create_publisher("/answer", "sensor_msgs/msg/Image")
    node.create_subscription("/question", "sensor_msgs/msg/Image", answers.publish)


def sink(node: Node) -> None:
    node.create_subscription("/question", "sensor_msgs/msg/Image", lambda _: None)


def action_server(node: Node) -> None:
    """Succeeds with the prompt doubled; a prompt ``wait`` lasts until it is cancelled."""

    def execute(goal: ServerGoal) -> tuple[GoalStatus, Any]:
        while goal.request.prompt == "wait" and not goal.cancel_requested:
            time.sleep(0.01)
        status = GoalStatus.CANCELED if goal.cancel_requested else GoalStatus.SUCCEEDED
        return status, new_message(f"{INFER}_Result", success=True, message=goal.request.prompt * 2)

    node.create_action_server("/infer", INFER, execute)


def action_client(node: Node) -> None:
    """Sends one goal that does not end."""
    client = node.create_action_client("/infer", INFER)
    while not client.server_is_ready:
        time.sleep(0.01)
    client.send_goal(new_message(f"{INFER}_Goal", prompt="wait"), lambda *_: None)


def main() -> None:
    transport, role = sys.argv[1:3]
    node = create_node(f"peer_{role}", transport)
    globals()[role](node)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait(120)


if __name__ == "__main__":
    main()
