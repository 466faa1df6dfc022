"""Raw endpoints: ready CDR in and out of DDS topics that a ROS 2 node matches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cyclonedds.core import DDSException, Entity, Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from inference_service.core.errors import TransportError
from inference_service.transport.dds import native
from inference_service.transport.dds.config import DdsConfig, apply_config
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import type_hash

# ROS says for ever. Cyclone does not wait for slow readers of a keep-last writer, old messages give way to new
# ones; should another version of it wait, then not for long. No part of matching.
_MAX_BLOCKING_S = 0.5
_UNLIMITED = -1


@dataclass(frozen=True)
class LocalEndpoint:
    """A writer or reader of ours as discovery would tell of it; names as they are on DDS."""

    topic: str
    type_name: str
    writes: bool
    qos: QoS


def open_participant(config: DdsConfig, name: str = "") -> DomainParticipant:
    """Join the domain as a ROS 2 context does (participant USER_DATA names the security enclave, REP 2009).

    ``name``: full name of the node, for peers of this package; ROS takes no notice of it.

    Raises:
        TransportError: the DDS library refuses its configuration or finds no place in the domain.
    """
    apply_config(config)
    native.keep_freed_memory()
    try:
        policies = [Policy.Userdata(b"enclave=/;"), *([Policy.EntityName(name)] if name else [])]
        return DomainParticipant(config.domain_id, Qos(*policies))
    except DDSException as error:
        raise TransportError(
            f"cannot join DDS domain {config.domain_id}: {error} Cyclone DDS printed the reason above; usual ones are "
            f"an error in CYCLONEDDS_URI, no free participant index, or a port in use. CYCLONEDDS_URI is {config.uri}"
        ) from error


def user_data(type_name: str, **entries: str) -> bytes:
    """USER_DATA of an endpoint: ``key=value;`` for each entry, and the type hash (REP 2011) where it is known."""
    known = type_hash(type_name)
    pairs = {**entries, **({"typehash": known} if known else {})}
    return "".join(f"{key}={value};" for key, value in pairs.items()).encode()


class Participant:
    """A DDS participant and its topics: one Topic per name, without QoS, whatever number of endpoints it has."""

    def __init__(self, config: DdsConfig, name: str = "") -> None:
        self.entity = open_participant(config, name)
        self.on_new_endpoint: Callable[[LocalEndpoint], None] = lambda _: None
        self._endpoints: dict[bytes, LocalEndpoint] = {}
        self._topics: dict[str, Any] = {}
        self._lock = threading.Lock()

    def topic(self, name: str, layout: Any) -> Any:
        """Raises TransportError where the name is in use with another type."""
        with self._lock:
            topic = self._topics.get(name)
            if topic is None:
                topic = self._topics[name] = Topic(self.entity, name, layout)
            elif topic.data_type is not layout:
                raise TransportError(
                    f"DDS topic {name} is of type {topic.typename} in this node, cannot be {layout.__name__} too"
                )
            return topic

    def endpoints(self) -> list[LocalEndpoint]:
        """Those that live now."""
        with self._lock:
            return list(self._endpoints.values())

    def add_endpoint(self, guid: bytes, endpoint: LocalEndpoint) -> None:
        with self._lock:
            self._endpoints[guid] = endpoint
        self.on_new_endpoint(endpoint)

    def remove_endpoint(self, guid: bytes) -> None:
        with self._lock:
            self._endpoints.pop(guid, None)

    def close(self) -> None:
        with self._lock:
            for topic in self._topics.values():
                native.delete(topic)
            self._topics.clear()
        native.delete(self.entity)


def _policies(qos: QoS) -> list[Any]:
    reliable = qos.reliability == "reliable"
    latched = qos.durability == "transient_local"
    return [
        Policy.Reliability.Reliable(duration(seconds=_MAX_BLOCKING_S)) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile,
        Policy.History.KeepLast(qos.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True),  # XCDR1, the only one that ROS takes
    ]


class _Endpoint:
    """``guid``: 16 bytes in the order of the wire. ``entity``: cyclonedds' own object."""

    def __init__(self, participant: Participant, topic: Any, entity: Entity, qos: QoS) -> None:
        self.topic: str = topic.name
        self.entity = entity
        self.guid = bytes(entity.guid.bytes)
        self._participant = participant
        local = LocalEndpoint(topic.name, topic.typename, isinstance(entity, DataWriter), qos)
        participant.add_endpoint(self.guid, local)

    def close(self) -> None:
        """Idempotent."""
        self._participant.remove_endpoint(self.guid)
        native.delete(self.entity)


class RawWriter(_Endpoint):
    """A writer of ready CDR."""

    def __init__(self, participant: Participant, topic: str, layout: Any, qos: QoS, data: bytes) -> None:
        policies = [*_policies(qos), Policy.WriterDataLifecycle(autodispose=False), Policy.Userdata(data)]
        if qos.durability == "transient_local":
            history = Policy.History.KeepLast(qos.depth)
            policies.append(Policy.DurabilityService(0, history, _UNLIMITED, _UNLIMITED, _UNLIMITED))
        if qos.lifespan_s is not None:
            policies.append(Policy.Lifespan(duration(seconds=qos.lifespan_s)))
        known = participant.topic(topic, layout)
        super().__init__(participant, known, DataWriter(participant.entity, known, Qos(*policies)), qos)
        self._giver = native.Giver(self.entity)

    @property
    def matched(self) -> int:
        """Number of readers on the other side."""
        return len(native.matched_readers(self.entity))

    def write(self, cdr: native.Buffer) -> None:
        """Send; does not wait for readers.

        Raises:
            TransportError: the bytes are not of the declared layout, or the writer is closed.
        """
        self._require_sent(self._giver.write(cdr), len(cdr))

    def write_parts(self, parts: Sequence[native.Part]) -> None:
        """Send the CDR that ``parts`` make up, a multiple of 4 bytes; as :meth:`write`, without putting them together
        first."""
        self._require_sent(self._giver.write_parts(parts), sum(memoryview(part).nbytes for part in parts))

    def _require_sent(self, code: int, size: int) -> None:
        if code < 0:
            raise TransportError(f"{self.topic}: cannot send {size} bytes: {DDSException(code)}")


class RawReader(_Endpoint):
    """A reader of ready CDR."""

    def __init__(self, participant: Participant, topic: str, layout: Any, qos: QoS, data: bytes) -> None:
        policies = [*_policies(qos), Policy.Userdata(data)]
        known = participant.topic(topic, layout)
        super().__init__(participant, known, DataReader(participant.entity, known, Qos(*policies)), qos)
        self.take = native.Taker(self.entity).take

    @property
    def matched(self) -> int:
        """Number of writers on the other side."""
        return len(native.matched_writers(self.entity))
