"""The ROS 2 node graph: what makes ``ros2 node list`` show us.

Each participant publishes on ``ros_discovery_info`` which endpoints belong to which of its nodes, the whole
list again at every change (design: https://github.com/ros2/design/pull/250; ``rmw_dds_common``). A GID there
has 16 bytes since iron and 24 in humble. The wrong size does harm: 16 in a humble domain makes
``ros2 node list`` fail for everyone, 24 in a later one hides the node and makes every ROS process log an error
per sample. With ``auto`` nothing is said until a ``ros_discovery_info`` writer of another process shows up:
with a type hash in its USER_DATA it is of iron or later, without one of humble. Nobody misses what
is not said before, for without such a writer there is no ROS 2 in the domain.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import DDSException, Policy, Qos

from inference_service.transport.dds import native
from inference_service.transport.dds.config import GidSize
from inference_service.transport.dds.discovery import take_discovered
from inference_service.transport.dds.endpoints import Participant, RawWriter, user_data
from inference_service.transport.dds.executor import Group
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, PARTICIPANT_INFO_HUMBLE

TOPIC = "ros_discovery_info"
_QOS = QoS(depth=1, durability="transient_local")
_ENCAPSULATION = b"\x00\x01\x00\x00"


class Graph:
    """The entry of one node, kept up to date. Safe to use from several threads."""

    def __init__(
        self,
        participant: Participant,
        name: str,
        namespace: str,
        gid_size: GidSize,
        group: Callable[[], Group],
        on_size: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``group`` gives the group on which to watch for other processes; called only for ``auto``. ``on_size`` is
        told the GID size as soon as it is known."""
        self._on_size = on_size
        self._participant = participant
        self._name = name
        self._namespace = namespace
        self._lock = threading.Lock()
        self._readers: list[bytes] = []
        self._writers: list[bytes] = []
        self._gid_size = 0
        self._writer: RawWriter | None = None
        if gid_size == "auto":
            watch = _RosWatch(participant, self._start)
            watch.start(group())
        else:
            self._start(gid_size)

    def add_reader(self, guid: bytes) -> None:
        self._change(lambda: self._readers.append(guid))

    def add_writer(self, guid: bytes) -> None:
        self._change(lambda: self._writers.append(guid))

    def remove(self, guid: bytes) -> None:
        """Forget an endpoint, reader or writer; unknown ones are ignored."""

        def forget() -> None:
            self._readers = [other for other in self._readers if other != guid]
            self._writers = [other for other in self._writers if other != guid]

        self._change(forget)

    @property
    def gid_size(self) -> int:
        """16 or 24, or 0 while nothing is announced."""
        return self._gid_size

    def close(self) -> None:
        """Say no more. The node leaves the graph when its participant is deleted."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _change(self, change: Callable[[], None]) -> None:
        with self._lock:
            change()
            self._announce()

    def _start(self, gid_size: int) -> None:
        layout = message_layout(PARTICIPANT_INFO if gid_size == 16 else PARTICIPANT_INFO_HUMBLE)
        data = user_data(PARTICIPANT_INFO) if gid_size == 16 else b""
        with self._lock:
            self._gid_size = gid_size
            self._writer = RawWriter(self._participant, TOPIC, layout, _QOS, data)
            self._announce()
        self._on_size(gid_size)

    def _announce(self) -> None:
        if self._writer is not None:
            participant = bytes(self._participant.entity.guid.bytes)
            self._writer.write(
                encode_participant_info(
                    participant, self._namespace, self._name, self._readers, self._writers, self._gid_size
                )
            )


@dataclass(frozen=True)
class Wiring:
    """What every endpoint of a node needs: the participant to live in and the graph to be announced in."""

    participant: Participant
    graph: Graph


def encode_participant_info(
    participant: bytes, namespace: str, name: str, readers: list[bytes], writers: list[bytes], gid_size: int
) -> bytes:
    """CDR of ``rmw_dds_common/msg/ParticipantEntitiesInfo`` with one node. GUIDs have 16 bytes; a ``gid_size`` of 24
    adds 8 zeros to each."""
    fill = bytes(gid_size - 16)
    body = bytearray(participant + fill + struct.pack("<I", 1))
    for text in (namespace, name):
        body += _string(text, len(body))
    for guids in (readers, writers):
        body += bytes(-len(body) % 4) + struct.pack("<I", len(guids))
        body += b"".join(guid + fill for guid in guids)
    return _ENCAPSULATION + bytes(body)


def _string(text: str, position: int) -> bytes:
    data = text.encode() + b"\0"
    return bytes(-position % 4) + struct.pack("<I", len(data)) + data


class _RosWatch:
    """Looks for the first ``ros_discovery_info`` writer of another process, reports its GID size, and ends."""

    label = "node graph"

    def __init__(self, participant: Participant, found: Callable[[int], None]) -> None:
        self._found = found
        self._own = participant.entity.guid
        self._reader = BuiltinDataReader(participant.entity, BuiltinTopicDcpsPublication)
        self._group: Group | None = None
        self._token = 0

    def start(self, group: Group) -> None:
        self._group = group
        self._token = group.add_reader(self._reader, self)

    def handle_one(self) -> bool:
        try:
            endpoints = take_discovered(self._reader, 1)
        except DDSException:  # the node is closing
            return False
        for endpoint in endpoints:
            if endpoint.topic_name == TOPIC and endpoint.participant_key != self._own:
                self._stop()
                self._found(_gid_size_of(endpoint.qos))
                return False
        return bool(endpoints)

    def _stop(self) -> None:
        assert self._group is not None
        self._group.remove_reader(self._token)
        native.delete(self._reader)


def _gid_size_of(qos: Qos) -> int:
    policy = qos[Policy.Userdata]
    return 16 if policy is not None and b"typehash=" in policy.data else 24
