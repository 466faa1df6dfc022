"""What every node of ours is in the ROS 2 graph: the services and topics that an rclpy node has, in its namespace."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
from cyclonedds.core import Policy

from inference_service.nodes.runtime import EXIT_FAILED, NodeParameters, run_node
from inference_service.transport.dds.discovery import take_discovered
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, new_message, type_hash
from inference_service.wire.type_description import SERVICE
from tests.nodes.harness import wait_until

OF_EVERY_NODE = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "get_type_description",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
)


class Parameters(NodeParameters):
    node_name: str = "any_node"


class App:
    """Runs ``visit`` beside the node and ends with it."""

    def __init__(self, visit: Any) -> None:
        self.failure: str | None = None
        self.error: BaseException | None = None
        self._visit = visit
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._visit()
        except BaseException as error:  # noqa: BLE001  # raised in the test's own thread
            self.error = error
        self.failure = "visited"

    def close(self) -> None:
        pass


@pytest.fixture
def visitor(domain_id: int) -> Iterator[DdsNode]:
    """Stands for a process of ROS 2 jazzy."""
    handlers = logging.getLogger().handlers[:]
    node = DdsNode("visitor", gid_size=16)
    yield node
    node.close()
    logging.getLogger().handlers[:] = handlers


def _run_with(visit: Any, *argv: str) -> None:
    apps: list[App] = []

    def start(_node: Any, _parameters: Parameters) -> App:
        apps.append(App(visit))
        return apps[0]

    assert run_node(Parameters, start, argv) == EXIT_FAILED
    if apps[0].error is not None:
        raise apps[0].error


def _ask_description(visitor: DdsNode, full_name: str) -> Any:
    client = visitor.create_client(f"{full_name}/get_type_description", SERVICE)
    assert wait_until(lambda: client.is_ready)
    answers: list[Any] = []
    log = "rcl_interfaces/msg/Log"
    client.call(new_message(f"{SERVICE}_Request", type_name=log, type_hash=type_hash(log)), answers.append)
    assert wait_until(lambda: answers)
    return answers[0]


def test_a_node_in_a_namespace_serves_there_what_ros_nodes_serve(visitor: DdsNode) -> None:
    def visit() -> None:
        clients = [
            visitor.create_client(
                f"/robot_1/renamed/{name}", f"rcl_interfaces/srv/{''.join(part.title() for part in name.split('_'))}"
            )
            for name in OF_EVERY_NODE
            if name != "get_type_description"
        ]
        assert wait_until(lambda: all(client.is_ready for client in clients))
        answer = _ask_description(visitor, "/robot_1/renamed")
        assert answer.successful
        assert answer.type_description.type_description.type_name == "rcl_interfaces/msg/Log"

    _run_with(visit, "--ros-args", "-r", "__node:=renamed", "-r", "__ns:=/robot_1")


def test_the_graph_names_the_node_in_its_namespace(visitor: DdsNode) -> None:
    seen: set[tuple[str, str]] = set()

    def keep(message: Any) -> None:
        seen.update((one.node_namespace, one.node_name) for one in message.node_entities_info_seq)

    def visit() -> None:
        assert wait_until(lambda: ("/robot_1", "any_node") in seen)

    from inference_service.transport.dds.endpoints import RawReader
    from inference_service.transport.dds.idl import message_layout
    from inference_service.wire.interfaces import deserialize

    latched = QoS(depth=100, durability="transient_local")
    reader = RawReader(visitor._participant, "ros_discovery_info", message_layout(PARTICIPANT_INFO), latched, b"")

    def poll() -> None:
        taken = reader.take()
        if taken is not None:
            keep(deserialize(taken.cdr, PARTICIPANT_INFO))

    visitor.create_timer(0.02, poll)
    _run_with(visit, "namespace:=/robot_1")


def test_no_endpoint_makes_a_peer_of_jazzy_warn(visitor: DdsNode) -> None:
    """It warns of each endpoint without a valid type hash, and of names that it cannot take apart."""
    kinds = (BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription)
    readers = [BuiltinDataReader(visitor._participant.entity, kind) for kind in kinds]
    own = visitor._participant.entity.guid
    seen: dict[str, bytes] = {}

    def look() -> bool:
        for reader in readers:
            for one in take_discovered(reader, 200):
                if one.qos is not None and one.participant_key != own:
                    seen[one.topic_name] = one.qos[Policy.Userdata].data if Policy.Userdata in one.qos else b""
        return "rq/any_node/get_type_descriptionRequest" in seen and "rt/rosout" in seen

    def visit() -> None:
        assert wait_until(look), seen
        time.sleep(0.2)
        look()

    _run_with(visit)
    told = {name: data for name, data in seen.items() if name != "ros_discovery_info" and name[:4] != "DCPS"}
    assert len(told) >= 15
    for name, data in told.items():
        assert name.startswith(("rt/", "rq/", "rr/"))
        assert re.search(rb"typehash=RIHS01_[0-9a-f]{64};", data), name
        assert name.startswith("rt/") or data.startswith(b"serviceid="), name
