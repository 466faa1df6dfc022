"""Endpoints as discovery shows them to others: names, types, QoS and USER_DATA of a default rclpy endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import Policy
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct, types

from inference_service.core.errors import TransportError
from inference_service.transport.dds.config import load_config
from inference_service.transport.dds.discovery import take_discovered
from inference_service.transport.dds.endpoints import Participant, RawWriter
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, new_message, type_hash

STRING = "std_msgs/msg/String"
INFER = "ibrobot_msgs/action/DispatchInfer"
TYPES = "ibrobot_msgs::action::dds_::DispatchInfer"


@pytest.fixture
def node(domain_id: int) -> Iterator[DdsNode]:
    made = DdsNode("node")
    yield made
    made.close()


def _endpoints(topic: Any, wanted: set[str]) -> dict[str, Any]:
    """What another participant sees, by topic name."""
    participant = DomainParticipant(load_config().domain_id)
    reader = BuiltinDataReader(participant, topic)
    found: dict[str, Any] = {}
    deadline = time.monotonic() + 10
    while not wanted <= found.keys():
        assert time.monotonic() < deadline, f"not seen: {wanted - found.keys()}"
        found.update({one.topic_name: one for one in take_discovered(reader, 50)})
        time.sleep(0.01)
    return found


def test_a_publisher_looks_like_one_of_rclpy(node: DdsNode) -> None:
    node.create_publisher("/text", STRING)
    seen = _endpoints(BuiltinTopicDcpsPublication, {"rt/text"})["rt/text"]
    assert seen.type_name == "std_msgs::msg::dds_::String_"
    qos = seen.qos
    assert isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)
    assert qos[Policy.Durability] is Policy.Durability.Volatile
    assert qos[Policy.DataRepresentation] == Policy.DataRepresentation(use_cdrv0_representation=True)
    assert qos[Policy.Userdata].data == f"typehash={type_hash(STRING)};".encode()


def test_a_latched_best_effort_subscription_says_so(node: DdsNode) -> None:
    node.create_subscription("/text", STRING, lambda _: None, QoS(3, "best_effort", "transient_local"))
    qos = _endpoints(BuiltinTopicDcpsSubscription, {"rt/text"})["rt/text"].qos
    assert qos[Policy.Reliability] is Policy.Reliability.BestEffort
    assert qos[Policy.Durability] is Policy.Durability.TransientLocal
    assert qos[Policy.DataRepresentation] == Policy.DataRepresentation(use_cdrv0_representation=True)


@pytest.mark.parametrize("gid_size", [16, 24])
def test_the_endpoints_of_the_graph_tell_the_hash_that_ros_warns_without(domain_id: int, gid_size: Any) -> None:
    """A process of iron and later prints a warning for each endpoint without one; humble's have none."""
    node = DdsNode("node", gid_size=gid_size)
    hashed = f"typehash={type_hash(PARTICIPANT_INFO)};".encode() if gid_size == 16 else b""
    for topic in (BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription):
        told = _endpoints(topic, {"ros_discovery_info"})["ros_discovery_info"].qos[Policy.Userdata]
        assert (told.data if told else b"") == hashed
    node.close()


def test_a_participant_names_its_enclave(node: DdsNode) -> None:
    participant = DomainParticipant(load_config().domain_id)
    reader = BuiltinDataReader(participant, BuiltinTopicDcpsParticipant)
    wanted = node._participant.entity.guid
    deadline = time.monotonic() + 10
    while True:
        assert time.monotonic() < deadline
        found = [one for one in take_discovered(reader, 10) if one.key == wanted]
        if found:
            break
        time.sleep(0.01)
    assert found[0].qos[Policy.Userdata].data == b"enclave=/;"


def test_an_action_has_the_names_and_types_of_ros_2(node: DdsNode) -> None:
    node.create_action_server("/infer", INFER, lambda _: None)  # type: ignore[arg-type, return-value]
    requests = {
        "rq/infer/_action/send_goalRequest": f"{TYPES}_SendGoal_Request_",
        "rq/infer/_action/get_resultRequest": f"{TYPES}_GetResult_Request_",
        "rq/infer/_action/cancel_goalRequest": "action_msgs::srv::dds_::CancelGoal_Request_",
    }
    replies = {
        "rr/infer/_action/send_goalReply": f"{TYPES}_SendGoal_Response_",
        "rr/infer/_action/get_resultReply": f"{TYPES}_GetResult_Response_",
        "rr/infer/_action/cancel_goalReply": "action_msgs::srv::dds_::CancelGoal_Response_",
        "rt/infer/_action/feedback": f"{TYPES}_FeedbackMessage_",
        "rt/infer/_action/status": "action_msgs::msg::dds_::GoalStatusArray_",
    }
    readers = _endpoints(BuiltinTopicDcpsSubscription, set(requests))
    writers = _endpoints(BuiltinTopicDcpsPublication, set(replies))
    assert {name: readers[name].type_name for name in requests} == requests
    assert {name: writers[name].type_name for name in replies} == replies
    assert writers["rt/infer/_action/status"].qos[Policy.Durability] is Policy.Durability.TransientLocal
    sides = [readers["rq/infer/_action/send_goalRequest"], writers["rr/infer/_action/send_goalReply"]]
    first, second = (side.qos[Policy.Userdata].data.split(b";") for side in sides)
    assert first == second
    assert first[0].startswith(b"serviceid=")
    assert first[1] == f"typehash={type_hash(f'{INFER}_SendGoal')}".encode()


def test_one_name_has_one_type(node: DdsNode) -> None:
    node.create_publisher("/text", STRING)
    node.create_publisher("/text", STRING)
    with pytest.raises(TransportError, match=r"rt/text.*String_.*Image_"):
        node.create_publisher("/text", "sensor_msgs/msg/Image")


def test_a_writer_that_calls_another_layout_by_the_same_name_does_no_harm(node: DdsNode) -> None:
    """Cyclone compares the layouts where both sides declare one, and hands up nothing that fails."""
    got: list[Any] = []
    node.create_subscription("/text", STRING, got.append)
    publisher = node.create_publisher("/text", STRING)
    stranger = Participant(load_config())
    layout = make_idl_struct("String_", "std_msgs::msg::dds_::String_", {"data": types.sequence[types.uint64]})
    writer = RawWriter(stranger, "rt/text", layout, QoS(durability="transient_local"), b"")
    writer.write(b"\0\1\0\0\1\0\0\0" + bytes(4) + b"\xff" * 8)
    _endpoints(BuiltinTopicDcpsPublication, {"rt/text"})
    time.sleep(0.1)
    publisher.publish(new_message(STRING, data="good"))
    deadline = time.monotonic() + 10
    while not got and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.close()
    stranger.close()
    assert [message.data for message in got] == ["good"]
