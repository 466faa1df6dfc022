"""What rclpy's C extension is to rclpy: errors, handles and the middleware, here on this package's own ``dds`` parts.

Rules are those of rclpy jazzy's ``src/rclpy/*.cpp`` (``destroyable.cpp``, ``_rclpy_pybind11.cpp``).
"""

from __future__ import annotations

import ctypes as ct
import threading
import time
from enum import IntEnum
from types import SimpleNamespace

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription

from inference_service.core.errors import MalformedMessage
from inference_service.transport.dds import native
from inference_service.transport.dds.config import load_config
from inference_service.transport.dds.discovery import take_discovered
from inference_service.transport.dds.endpoints import Participant, RawReader
from inference_service.transport.dds.graph import Graph, Wiring
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import PARTICIPANT_INFO, deserialize


class RCLError(RuntimeError):
    pass


class RMWError(RuntimeError):
    pass


class InvalidHandle(RuntimeError):
    pass


class Misuse(AssertionError):
    """Not of rclpy: what rclpy lets pass although it goes wrong now and then. The simulator never lets it pass."""


class ClockChange(IntEnum):
    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


class Destroyable:
    """A handle: ``with handle:`` keeps it alive; after ``destroy_when_not_in_use`` nobody enters it any more."""

    def __init__(self):
        self._users = 0
        self._doomed = False
        self._handle_lock = threading.Lock()

    def __enter__(self):
        with self._handle_lock:
            if self._doomed:
                raise InvalidHandle("cannot use Destroyable because destruction was requested")
            self._users += 1
        return self

    def __exit__(self, *_):
        with self._handle_lock:
            self._users -= 1
            end = self._doomed and not self._users
        if end:
            self._destroy()

    def destroy_when_not_in_use(self):
        with self._handle_lock:
            if self._doomed:
                return
            self._doomed = True
            end = not self._users
        if end:
            self._destroy()

    def _destroy(self):
        pass


class NodeHandle(Destroyable):
    """A participant with one node, and what waits for its readers: the group of ``transport.dds`` on an executor."""

    def __init__(self, name, namespace, domain_id):
        super().__init__()
        config = load_config()
        if domain_id is not None:
            config = SimpleNamespace(domain_id=domain_id, uri=config.uri)
        self.participant = Participant(config)
        # A peer of jazzy: 16-byte GIDs, announced at once.
        self.graph = Graph(self.participant, name, namespace, 16, lambda: None)
        self.wiring = Wiring(self.participant, self.graph)
        self.waitset = native.WaitSet(self.participant.entity)
        self._sources = {}
        self._token = 0
        self._timers = []
        self._lock = threading.Lock()
        self._names = {}
        latched = QoS(depth=100, durability="transient_local")
        self._discovery = RawReader(
            self.participant, "ros_discovery_info", message_layout(PARTICIPANT_INFO), latched, b""
        )

        self._owners = {}
        self._remotes = {True: {}, False: {}}
        self._builtin = {
            True: BuiltinDataReader(self.participant.entity, BuiltinTopicDcpsPublication),
            False: BuiltinDataReader(self.participant.entity, BuiltinTopicDcpsSubscription),
        }

    def add_reader(self, reader, source):
        with self._lock:
            self._token += 1
            self._sources[self._token] = source
            self.waitset.attach(reader, self._token)
            token = self._token
        self.waitset.wake()
        return token

    def remove_reader(self, token):
        with self._lock:
            if self._sources.pop(token, None) is not None:
                self.waitset.detach(token)

    def add_timer(self, period_s, callback):
        """For the retries of a service's answer, which in ROS are the middleware's own."""
        timer = SimpleNamespace(due=time.monotonic() + period_s, period_s=period_s, callback=callback)
        timer.cancel = lambda: self._timers.remove(timer) if timer in self._timers else None
        self._timers.append(timer)
        self.waitset.wake()
        return timer

    def wait(self, seconds):
        """Sources that hold data."""
        until = time.monotonic() + seconds
        for timer in list(self._timers):
            if timer.due <= time.monotonic():
                timer.due = time.monotonic() + timer.period_s
                timer.callback()
            until = min(until, timer.due)
        tokens = self.waitset.wait(int(max(0.0, until - time.monotonic()) * 1e9))
        with self._lock:
            return [self._sources[token] for token in tokens if token in self._sources]

    def node_names(self):
        while (taken := self._discovery.take()) is not None:
            try:
                info = deserialize(taken.cdr, PARTICIPANT_INFO)
            except MalformedMessage:
                continue
            entries = [(str(one.node_name), str(one.node_namespace)) for one in info.node_entities_info_seq]
            self._names[taken.writer] = entries
            for one in info.node_entities_info_seq:
                for gid in (*one.reader_gid_seq, *one.writer_gid_seq):
                    self._owners[bytes(gid.data)] = (str(one.node_name), str(one.node_namespace))
        alive = native.matched_writers(self._discovery.entity)
        self._names = {writer: names for writer, names in self._names.items() if writer in alive}
        return [entry for names in self._names.values() for entry in names]

    def endpoints_info(self, topic, writes):
        """Endpoints on a topic, of every node: ``rclpy.topic_endpoint_info``."""
        self.node_names()
        remotes = self._remotes[writes]
        for sample in take_discovered(self._builtin[writes], 1000):
            if sample.qos is None or not sample.sample_info.valid_data:
                remotes.pop(sample.key.bytes, None)
            else:
                remotes[sample.key.bytes] = sample
        return [_endpoint_info(one, self._owners) for one in remotes.values() if one.topic_name == f"rt{topic}"]

    def _destroy(self):
        self.graph.close()
        self._discovery.close()
        for reader in self._builtin.values():
            native.delete(reader)
        self.participant.close()


def _endpoint_info(sample, owners):
    name, namespace = owners.get(sample.key.bytes, ("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_"))
    package, kind, _, bare = sample.type_name.split("::")
    return SimpleNamespace(node_name=name, node_namespace=namespace, topic_type=f"{package}/{kind}/{bare[:-1]}")


class Entity(Destroyable):
    """Something of ``transport.dds`` in a handle; the node lives as long as it."""

    def __init__(self, node_handle, inner):
        super().__init__()
        self.node_handle = node_handle
        self.inner = inner
        node_handle.__enter__()

    def _destroy(self):
        self.inner.close()
        self.node_handle.__exit__(None, None, None)


class _IncompatibleQos(ct.Structure):
    """``dds_requested_incompatible_qos_status_t``, and the one of writers."""

    _fields_ = (("total_count", ct.c_uint32), ("total_count_change", ct.c_int32), ("last_policy_id", ct.c_uint32))


_POLICY_KINDS = {2: 2, 11: 16, 21: 64}  # ids of DDS (durability, reliability, lifespan) to rmw_qos_policy_kind_t


def take_incompatible_qos(entity, writes):
    """The event, or None when nothing is new."""
    name = "dds_get_offered_incompatible_qos_status" if writes else "dds_get_requested_incompatible_qos_status"
    status = _IncompatibleQos()
    code = getattr(native._library, name)(ct.c_int32(entity._ref), ct.byref(status))
    if code < 0 or status.total_count_change <= 0:
        return None
    return SimpleNamespace(
        total_count=status.total_count,
        total_count_change=status.total_count_change,
        last_policy_kind=_POLICY_KINDS.get(status.last_policy_id, 1),
    )
