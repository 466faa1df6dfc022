"""The node graph: bytes as a real ROS 2 writes them, in the size that the ROS 2 at hand understands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import Policy

from inference_service.transport.dds import native
from inference_service.transport.dds.config import load_config
from inference_service.transport.dds.endpoints import Participant, RawReader, RawWriter, user_data
from inference_service.transport.dds.graph import TOPIC, encode_participant_info
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, PARTICIPANT_INFO_HUMBLE, deserialize

GOLDEN = Path(__file__).parents[1] / "golden" / "participant_entities_info.cdr"
QOS = QoS(depth=1, durability="transient_local")
TYPES = {16: PARTICIPANT_INFO, 24: PARTICIPANT_INFO_HUMBLE}


class Ros:
    """Stands for a process of ROS 2: announces an empty graph and reads that of others."""

    def __init__(self, gid_size: int) -> None:
        self.type_name = TYPES[gid_size]
        self._participant = Participant(load_config())
        layout = message_layout(self.type_name)
        data = user_data(PARTICIPANT_INFO) if gid_size == 16 else b""
        self._reader = RawReader(self._participant, TOPIC, layout, QOS, b"")
        self._writer = RawWriter(self._participant, TOPIC, layout, QOS, data)

    def newest(self) -> Any:
        """The newest sample of another process that comes within 10 s and tells of an endpoint."""
        deadline = time.monotonic() + 10
        found = None
        while time.monotonic() < deadline:
            taken = self._reader.take()
            if taken is not None:
                found = deserialize(taken.cdr, self.type_name)
            elif found is not None:
                return found
            else:
                time.sleep(0.01)
        raise AssertionError("nothing on ros_discovery_info")

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
        self._participant.close()


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    things: list[Any] = []
    yield things
    for thing in things:
        thing.close()


def _node(**options: Any) -> DdsNode:
    node = DdsNode("camera", **options)
    node.create_publisher("/text", "std_msgs/msg/String")
    node.create_subscription("/text", "std_msgs/msg/String", lambda _: None)
    return node


def test_the_bytes_are_those_of_a_real_ros_2() -> None:
    encoded = encode_participant_info(
        bytes(range(16)), "/", "pure_inference", [bytes([1] * 16)], [bytes([2] * 16), bytes([3] * 16)], 16
    )
    assert encoded == GOLDEN.read_bytes()


def test_humble_gets_gids_of_24_bytes() -> None:
    encoded = encode_participant_info(bytes(range(16)), "/robot", "n", [bytes([1] * 16)], [], 24)
    message = deserialize(encoded, PARTICIPANT_INFO_HUMBLE)
    (entry,) = message.node_entities_info_seq
    assert bytes(message.gid.data) == bytes(range(16)) + bytes(8)
    assert (entry.node_namespace, entry.node_name) == ("/robot", "n")
    assert [bytes(gid.data) for gid in entry.reader_gid_seq] == [bytes([1] * 16) + bytes(8)]


@pytest.mark.parametrize("gid_size", [16, 24])
@pytest.mark.parametrize("ros_first", [True, False])
def test_auto_follows_the_ros_2_that_is_there(opened: list[Any], gid_size: int, ros_first: bool) -> None:
    def ros() -> Ros:
        opened.append(Ros(gid_size))
        return opened[-1]

    process = ros() if ros_first else None
    opened.append(node := _node(gid_size="auto"))
    if process is None:
        time.sleep(0.2)
        assert node._graph.gid_size == 0, "something was said before any ROS 2 was seen"
        process = ros()
    message = process.newest()
    (entry,) = message.node_entities_info_seq
    assert entry.node_name == "camera"
    assert len(message.gid.data) == gid_size


def test_every_endpoint_is_announced_and_forgotten(opened: list[Any]) -> None:
    opened.append(ros := Ros(16))
    opened.append(node := _node(gid_size=16))
    (entry,) = ros.newest().node_entities_info_seq
    assert (entry.node_namespace, entry.node_name) == ("/", "camera")
    assert (len(entry.reader_gid_seq), len(entry.writer_gid_seq)) == (1, 1)
    extra = node.create_publisher("/more", "std_msgs/msg/String")
    assert len(ros.newest().node_entities_info_seq[0].writer_gid_seq) == 2
    extra.close()
    (entry,) = ros.newest().node_entities_info_seq
    assert len(entry.writer_gid_seq) == 1
    assert bytes(entry.writer_gid_seq[0].data)[:12] == bytes(node._participant.entity.guid.bytes)[:12]


def test_one_of_our_nodes_tells_the_size_to_the_others(opened: list[Any]) -> None:
    opened.append(_node(gid_size=24))
    opened.append(follower := DdsNode("follower", gid_size="auto"))
    deadline = time.monotonic() + 10
    while follower._graph.gid_size == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert follower._graph.gid_size == 24


def test_the_graph_is_written_as_rmw_writes_it(opened: list[Any]) -> None:
    opened.append(ros := Ros(16))
    opened.append(_node(gid_size=16))
    ros.newest()
    own = ros._participant.entity.guid
    found = BuiltinDataReader(ros._participant.entity, BuiltinTopicDcpsPublication).take(100)
    (qos,) = [one.qos for one in found if one.topic_name == TOPIC and one.participant_key != own]
    assert isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)
    assert qos[Policy.Durability] is Policy.Durability.TransientLocal
    assert qos[Policy.History] == Policy.History.KeepLast(1)
    assert qos[Policy.DurabilityService].history == Policy.History.KeepLast(1)
    assert qos[Policy.Userdata].data.startswith(b"typehash=RIHS01_")


def test_a_node_that_closes_leaves_the_graph_at_once(opened: list[Any]) -> None:
    opened.append(ros := Ros(16))
    opened.append(node := _node(gid_size=16))
    ros.newest()
    assert len(native.matched_writers(ros._reader.entity)) == 2  # its own and the node's
    node.close()
    deadline = time.monotonic() + 5  # the lease of a node that just dies is 10 s
    while len(native.matched_writers(ros._reader.entity)) > 1:
        assert time.monotonic() < deadline, "the node is still there"
        time.sleep(0.01)
