"""A ROS 2 node without ROS: implements :class:`inference_service.transport.protocol.Node` on Cyclone DDS."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from inference_service.transport.dds import native
from inference_service.transport.dds.action_client import DdsActionClient
from inference_service.transport.dds.action_server import DdsActionServer, Execute
from inference_service.transport.dds.config import GidSize, check_domain_id, load_config
from inference_service.transport.dds.endpoints import Participant
from inference_service.transport.dds.executor import Executor, FixedRateTimer, Group
from inference_service.transport.dds.graph import Graph, Wiring
from inference_service.transport.dds.peers import PeerWatch
from inference_service.transport.dds.services import RequestId, ServiceClient, ServiceServer
from inference_service.transport.dds.topics import DdsPublisher, DdsSubscription
from inference_service.transport.names import check_node_name, resolve
from inference_service.transport.protocol import Message, QoS
from inference_service.transport.reporting import Conflicts, ErrorLog
from inference_service.wire.interfaces import service_types

_CLOSE_S = 1.9
_JOIN_S = 1.3
_DEFAULT_QOS = QoS()


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class DdsNode:
    """A node with a DDS participant of its own; see :func:`inference_service.transport.create_node`.

    Every method may be called from any thread. Names of topics, services and actions that do not start with a
    slash are within the node's namespace.
    """

    describes_types = False

    def __init__(
        self,
        name: str,
        *,
        domain_id: int | None = None,
        use_sim_time: bool = False,
        namespace: str = "/",
        gid_size: GidSize | None = None,
    ) -> None:
        """``domain_id`` and ``gid_size`` default to what the environment says (``config.py``).

        Raises:
            TransportError: a bad name or environment variable, or the domain cannot be joined.
        """
        check_node_name(name, namespace)
        config = load_config()
        if domain_id is not None:
            config = replace(config, domain_id=check_domain_id(domain_id))
        self.name = name
        self._namespace = namespace
        self._logger = logging.getLogger(name)
        self._error_log = ErrorLog(self._logger)
        self._conflicts = Conflicts(self._logger)
        self._closables: list[_Closable] = []
        self._servers: list[DdsActionServer] = []
        self._closing = threading.Lock()
        self._closed = False
        full_name = f"{namespace.rstrip('/')}/{name}"
        self._participant = Participant(config, full_name)
        self._executor = Executor(name, lambda: native.WaitSet(self._participant.entity), self._error_log)
        gid_size = config.gid_size if gid_size is None else gid_size
        peers = PeerWatch(self._participant, full_name, self._group("_graph"), self._conflicts.report)
        self._graph = Graph(
            self._participant, name, namespace, gid_size, lambda: self._group("_graph"), peers.follow_graph
        )
        self._wiring = Wiring(self._participant, self._graph)
        self._sim_time_ns: int | None = None
        self._on_jump: list[Callable[[int], None]] = []
        if use_sim_time:
            self._follow_clock()
        # A node that nobody closed leaves the graph when the process ends.
        atexit.register(self.close)

    @property
    def errors(self) -> int:
        return self._error_log.count

    @property
    def conflicts(self) -> list[str]:
        return self._conflicts.told

    @property
    def malformed(self) -> int:
        return sum(getattr(closable, "malformed", 0) for closable in self._closables)

    def _group(self, name: str) -> Group:
        return self._executor.group(name)

    def now_ns(self) -> int:
        return time.time_ns() if self._sim_time_ns is None else self._sim_time_ns

    def _follow_clock(self) -> None:
        self._sim_time_ns = 0  # as in ROS: zero until the first /clock

        qos = QoS(depth=1, reliability="best_effort")
        self.create_subscription("/clock", "rosgraph_msgs/msg/Clock", self._on_clock, qos, group="_clock")

    def _on_clock(self, message: Message) -> None:
        before = self._sim_time_ns or 0
        self._sim_time_ns = now = message.clock.sec * 10**9 + message.clock.nanosec
        if now >= before:
            return
        self._logger.warning("/clock jumped back by %.3f s", (before - now) / 1e9)
        for callback in self._on_jump:
            try:
                callback(before - now)
            except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
                self._error_log.report("callback of a clock jump", error)

    def on_clock_jump(self, callback: Callable[[int], None]) -> None:
        self._on_jump.append(callback)

    def _resolve(self, name: str) -> str:
        return resolve(self._namespace, name)

    def _keep(self, closable: C) -> C:
        self._closables.append(closable)
        return closable

    def create_publisher(self, topic: str, msg_type: str, qos: QoS = _DEFAULT_QOS) -> DdsPublisher:
        return self._keep(DdsPublisher(self._wiring, self._resolve(topic), msg_type, qos))

    def create_subscription(
        self,
        topic: str,
        msg_type: str,
        callback: Callable[[Message], None],
        qos: QoS = _DEFAULT_QOS,
        *,
        group: str = "default",
    ) -> DdsSubscription:
        """Arrays in a large message are read-only views of the DDS library's buffer, which they keep alive."""
        name = self._resolve(topic)
        return self._keep(
            DdsSubscription(self._wiring, self._group(group), name, msg_type, callback, qos, self._logger)
        )

    def create_timer(self, period_s: float, callback: Callable[[], None], *, group: str = "default") -> FixedRateTimer:
        return self._group(group).add_timer(period_s, callback)

    def create_action_server(
        self,
        name: str,
        action_type: str,
        execute: Execute,
        *,
        accept: Callable[[Message], bool] | None = None,
        max_concurrent: int = 4,
    ) -> DdsActionServer:
        """A goal beyond ``max_concurrent`` running ones is rejected. ``accept`` runs on the node's group for actions
        and must be quick."""
        server = DdsActionServer(
            self._wiring,
            self._group("_actions"),
            self._resolve(name),
            action_type,
            execute,
            accept,
            max_concurrent,
            self._error_log,
            self.now_ns,
            self._conflicts.report,
        )
        self._servers.append(server)
        return self._keep(server)

    def create_action_client(self, name: str, action_type: str, *, group: str = "default") -> DdsActionClient:
        return self._keep(DdsActionClient(self._wiring, self._group(group), self._resolve(name), action_type))

    def create_service(
        self, name: str, srv_type: str, callback: Callable[[Message], Message], *, group: str = "default"
    ) -> ServiceServer:
        def handle(request_id: RequestId, request: Message) -> None:
            server.reply(request_id, callback(request))

        types = service_types(srv_type)
        server = ServiceServer(self._wiring, self._group(group), self._resolve(name), types, handle)
        return self._keep(server)

    def create_client(self, name: str, srv_type: str, *, group: str = "default") -> ServiceClient:
        """A client of a service (not part of the protocol; for tests and tools)."""
        return self._keep(ServiceClient(self._wiring, self._group(group), self._resolve(name), service_types(srv_type)))

    def close(self) -> None:
        """Abort running goals, stop every thread, leave the graph. Idempotent; returns within 2 s, even from a
        callback or with one that hangs (which is then named in the log)."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        start = time.monotonic()
        workers = [worker for server in self._servers for worker in server.abort_all()]
        self._executor.stop()
        self._join(workers, start + _JOIN_S)
        # A writer lingers on data that a dead peer never acknowledged; that is no reason to linger here.
        leaving = threading.Thread(target=self._leave, name=f"{self.name}/_leave", daemon=True)
        try:
            leaving.start()
        except RuntimeError:  # Python 3.12 starts no threads in exit handlers
            self._leave()
        else:
            leaving.join(max(0.0, start + _CLOSE_S - time.monotonic()))

    def _join(self, workers: list[threading.Thread], deadline: float) -> None:
        hanging = self._executor.join(deadline)
        for worker in workers:
            if worker is not threading.current_thread():
                worker.join(max(0.0, deadline - time.monotonic()))
                hanging += [worker.name] if worker.is_alive() else []
        if hanging:
            self._logger.warning("still running after close: %s", ", ".join(hanging))

    def _leave(self) -> None:
        self._graph.close()
        for closable in self._closables:
            closable.close()
        self._participant.close()
