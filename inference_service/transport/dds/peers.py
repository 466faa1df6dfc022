"""Notices what DDS keeps silent about: endpoints on our topics that cannot match ours, and a node of our name.

DDS matches by topic, type name and QoS; what does not match is simply not there. Discovery tells of every endpoint
all the same, so each is compared with ours, and each disagreement is reported once, with the peer's name.
Nodes of this package name themselves by their participant's entity name, ROS nodes through ``ros_discovery_info``;
for any other peer the process is named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import DDSException, Policy, Qos

from inference_service.core.errors import MalformedMessage
from inference_service.transport.dds.discovery import take_discovered
from inference_service.transport.dds.endpoints import LocalEndpoint, Participant, RawReader, user_data
from inference_service.transport.dds.executor import Group
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.dds.native import NativeError
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, PARTICIPANT_INFO_HUMBLE, deserialize

MAX_REPORTED = 256
_TOPIC = "ros_discovery_info"
_BATCH = 16


@dataclass(frozen=True)
class _Remote:
    """An endpoint of another participant."""

    participant: bytes
    topic: str
    type_name: str
    writes: bool
    reliable: bool
    latched: bool


class PeerWatch:
    """Watches the domain for one node. ``report`` is called once for each disagreement, on the thread of ``group``
    or on the one that makes an endpoint."""

    def __init__(self, participant: Participant, name: str, group: Group, report: Callable[[str], None]) -> None:
        self._participant = participant
        self._own = bytes(participant.entity.guid.bytes)
        self._name = name
        self._group = group
        self._report = report
        self._lock = threading.RLock()
        self._remotes: dict[bytes, _Remote] = {}
        self._names: dict[bytes, str] = {}
        self._reported: set[object] = set()
        self._participants = _Builtin(participant, BuiltinTopicDcpsParticipant, self._on_participant)
        publications = _Builtin(participant, BuiltinTopicDcpsPublication, lambda s: self._on_endpoint(s, writes=True))
        readers = _Builtin(participant, BuiltinTopicDcpsSubscription, lambda s: self._on_endpoint(s, writes=False))
        participant.on_new_endpoint = self._on_local
        for source in (self._participants, publications, readers):
            group.add_reader(source.reader, source)

    def follow_graph(self, gid_size: int) -> None:
        """Learn the names of ROS nodes; ``gid_size`` is the layout that the domain speaks."""
        names = _GraphNames(self._participant, gid_size, self._on_ros_node)
        self._group.add_reader(names.reader.entity, names)

    # -- what discovery tells ----------------------------------------------------------------------------------

    def _on_participant(self, sample: Any) -> None:
        key = sample.key.bytes
        with self._lock:
            if sample.qos is None or not sample.sample_info.valid_data:
                self._names.pop(key, None)
            elif key != self._own:
                entity_name = sample.qos[Policy.EntityName]
                if entity_name is not None and entity_name.name.startswith("/"):
                    self._on_ros_node(key, entity_name.name)
                else:
                    self._names.setdefault(key, _process(sample.qos))

    def _on_ros_node(self, participant: bytes, name: str) -> None:
        if participant == self._own:
            return
        with self._lock:
            before = self._names.get(participant, "")
            self._names[participant] = name
            if name == self._name and before != name:
                self._once(
                    ("name", participant),
                    f"another node is named {name}: tools and parameters cannot tell the two apart; "
                    "give one another node_name or ROS_DOMAIN_ID",
                )

    def _on_endpoint(self, sample: Any, writes: bool) -> None:
        key = sample.key.bytes
        with self._lock:
            if sample.qos is None or not sample.sample_info.valid_data:
                self._remotes.pop(key, None)
                return
            if sample.participant_key.bytes == self._own:
                return
            remote = _remote(sample, writes)
            self._remotes[key] = remote
            for local in self._participant.endpoints():
                self._compare(local, remote)

    def _on_local(self, local: LocalEndpoint) -> None:
        with self._lock:
            for remote in list(self._remotes.values()):
                self._compare(local, remote)

    # -- judging -----------------------------------------------------------------------------------------------

    def _compare(self, local: LocalEndpoint, remote: _Remote) -> None:
        if local.topic != remote.topic:
            return
        problem = _type_problem(local, remote)
        if problem is None and local.writes != remote.writes:
            problem = _qos_problem(local.qos, remote, local.writes)
        if problem is None:
            return
        self._participants.drain()
        role = "publisher" if remote.writes else "subscription"
        peer = self._names.get(remote.participant, "an unknown process")
        # Once a peer and topic: an action alone has eight endpoints.
        self._once(
            (remote.participant, remote.topic, remote.writes, problem),
            f"{_ros_name(remote.topic)}: a {role} of {peer} {problem}",
        )

    def _once(self, key: object, text: str) -> None:
        if key not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(key)
            self._report(text)


class _Builtin:
    """Hands each sample of a built-in topic on."""

    label = "discovery"

    def __init__(self, participant: Participant, topic: Any, handle: Callable[[Any], None]) -> None:
        self.reader = BuiltinDataReader(participant.entity, topic)
        self._handle = handle

    def handle_one(self) -> bool:
        try:
            samples = take_discovered(self.reader, _BATCH)
        except DDSException:  # the node is closing
            return False
        for sample in samples:
            self._handle(sample)
        return bool(samples)

    def drain(self) -> None:
        while self.handle_one():
            pass


class _GraphNames:
    """Reads which node lives in which participant."""

    label = "node names"

    def __init__(self, participant: Participant, gid_size: int, found: Callable[[bytes, str], None]) -> None:
        self._type = PARTICIPANT_INFO if gid_size == 16 else PARTICIPANT_INFO_HUMBLE
        qos = QoS(depth=100, durability="transient_local")
        # Without its hash every process of iron and later prints a warning.
        data = user_data(self._type) if gid_size == 16 else b""
        self.reader = RawReader(participant, _TOPIC, message_layout(self._type), qos, data)
        self._found = found

    def handle_one(self) -> bool:
        try:
            taken = self.reader.take()
        except NativeError:  # closed by another thread
            return False
        if taken is None:
            return False
        try:
            info = deserialize(taken.cdr, self._type)
        except MalformedMessage:  # of a distro with the other layout: its names stay unknown
            return True
        for node in info.node_entities_info_seq:
            name = f"{str(node.node_namespace).rstrip('/')}/{node.node_name}"
            self._found(bytes(info.gid.data[:16]), name)
        return True


def _remote(sample: Any, writes: bool) -> _Remote:
    reliability, durability = sample.qos[Policy.Reliability], sample.qos[Policy.Durability]
    return _Remote(
        participant=sample.participant_key.bytes,
        topic=sample.topic_name,
        type_name=sample.type_name,
        writes=writes,
        reliable=isinstance(reliability, Policy.Reliability.Reliable),
        latched=durability not in (None, Policy.Durability.Volatile),
    )


def _type_problem(local: LocalEndpoint, remote: _Remote) -> str | None:
    if local.type_name == remote.type_name:
        return None
    return f"is of type {remote.type_name}, ours of {local.type_name}: they do not hear each other; rename one topic"


def _qos_problem(ours: QoS, remote: _Remote, we_write: bool) -> str | None:
    """Rules of DDS: what is offered has to be at least what is asked for."""
    reliable, latched = ours.reliability == "reliable", ours.durability == "transient_local"
    offers_reliable, wants_reliable = (reliable, remote.reliable) if we_write else (remote.reliable, reliable)
    offers_latched, wants_latched = (latched, remote.latched) if we_write else (remote.latched, latched)
    who = "asks for {} and ours offers {}" if we_write else "offers {1} and ours asks for {0}"
    if wants_reliable and not offers_reliable:
        what = "reliability RELIABLE", "BEST_EFFORT"
    elif wants_latched and not offers_latched:
        what = "durability TRANSIENT_LOCAL", "VOLATILE"
    else:
        return None
    return who.format(*what) + ": QoS does not match, no message passes; set the same on both sides"


def _ros_name(topic: str) -> str:
    """``rt/a`` as ROS calls it; parts of services and actions as they are on DDS."""
    return topic[2:] if topic.startswith("rt/") else topic


def _process(qos: Qos) -> str:
    """What Cyclone DDS tells of a process."""
    told = {policy.key: policy.value for policy in qos if isinstance(policy, Policy.Property)}
    if "__ProcessName" not in told:
        return "an unknown process"
    return f"process {told['__ProcessName']} (pid {told.get('__Pid', '?')} on {told.get('__Hostname', '?')})"
