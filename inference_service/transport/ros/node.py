"""A node on rclpy: implements :class:`inference_service.transport.protocol.Node` where ROS 2 is installed.

Messages cross rclpy as serialised bytes both ways (``publish(bytes)``, ``raw=True``), which spares its conversion of
large arrays, so the codec is the one of the ``dds`` transport. rclpy's executor spins on one thread and only
takes; callbacks and timers run on the threads of their groups (``groups.py``).
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_policy_name_from_kind

from inference_service.core.errors import TransportError
from inference_service.transport.names import check_node_name, resolve
from inference_service.transport.protocol import Message, QoS
from inference_service.transport.reporting import Conflicts, ErrorLog
from inference_service.transport.ros.actions import Execute, RosActionClient, RosActionServer, RosServerGoal
from inference_service.transport.ros.endpoints import RosPublisher, RosService, RosServiceClient, RosSubscription
from inference_service.transport.ros.groups import Group, Timer

try:  # iron and later
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

_DEFAULT_QOS = QoS()
_CLOSE_S = 1.3
# rclpy tells of QoS that does not match, but of nothing else: the graph has to be asked. To ask for the nodes takes
# microseconds, for the endpoints of a topic some hundred: those are looked at when nodes come or go, and now and then.
_LOOK_S = 0.25
_LOOKS_AFTER_CHANGE = 6  # endpoints are discovered after their node
_LOOK_AT_ALL_EVERY = 8
_NAMELESS = "_NODE_NAME_UNKNOWN_"  # rmw_dds_common
_ROUNDS = 3  # a goal's end takes rclpy's executor two steps, its answer to a client one


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class RosNode:
    """A node with an rclpy context of its own; see :func:`inference_service.transport.create_node`."""

    describes_types = True

    def __init__(
        self, name: str, *, domain_id: int | None = None, use_sim_time: bool = False, namespace: str = "/"
    ) -> None:
        """``domain_id`` defaults to ``ROS_DOMAIN_ID``.

        Raises:
            TransportError: a bad name, or ROS cannot start.
        """
        check_node_name(name, namespace)
        self.name = name
        self._namespace = namespace
        self._logger = logging.getLogger(name)
        self._errors = ErrorLog(self._logger)
        self._conflicts = Conflicts(self._logger)
        self._groups: dict[str, Group] = {}
        self._lock = threading.Lock()
        self._closables: list[Any] = []
        self._servers: list[RosActionServer] = []
        self._types: dict[str, str] = {}  # of our topics
        self._nameless: set[tuple[str, str, str]] = set()
        self._nodes: list[tuple[str, str]] = []
        self._looks_left = 0
        self._orders: deque[Callable[[], object]] = deque()
        self._closing = False
        self._closed = False
        self._context = Context()
        try:
            # The command line is parsed by runtime.py, for both transports alike.
            rclpy.init(args=[], context=self._context, domain_id=domain_id)
            sim_time = Parameter("use_sim_time", Parameter.Type.BOOL, use_sim_time)
            self._node = rclpy.create_node(
                name,
                context=self._context,
                namespace=namespace,
                use_global_arguments=False,
                enable_rosout=False,  # nodes/rosout.py and nodes/parameter_services.py serve every transport
                start_parameter_services=False,
                parameter_overrides=[sim_time],
            )
        except RuntimeError as error:
            raise TransportError(f"cannot start ROS node {name}: {error}") from error
        self._order_guard = self._node.create_guard_condition(self._carry_out)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._spinner = threading.Thread(target=self._spin, name=f"{name}/rclpy", daemon=True)
        self._spinner.start()
        self.create_timer(_LOOK_S, self._look, group="_graph")
        atexit.register(self.close)

    # -- the executor's thread ----------------------------------------------------------------------------------

    def _spin(self) -> None:
        while not self._closed and self._context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except ExternalShutdownException:
                return
            except Exception as error:  # noqa: BLE001  # one bad message must not silence the node
                self._errors.report(f"{self.name}/rclpy", error)

    def _on_executor(self, order: Callable[[], object]) -> None:
        """Run ``order`` on the executor's thread; not at all once the node has left."""
        self._orders.append(order)
        with suppress(InvalidHandle):
            self._order_guard.trigger()

    def _carry_out(self) -> None:
        while self._orders:
            try:
                self._orders.popleft()()
            except Exception as error:  # noqa: BLE001  # one order that fails must not take the others along
                self._errors.report(f"{self.name}/rclpy", error)

    def _settle(self, goals: list[RosServerGoal], deadline: float) -> None:
        """Let the executor send the results of goals that were aborted."""
        for goal in goals:
            goal.sent.wait(max(0.0, deadline - time.monotonic()))
        for _ in range(_ROUNDS):
            done = threading.Event()
            self._on_executor(done.set)
            done.wait(max(0.0, deadline - time.monotonic()))

    # -- telling ------------------------------------------------------------------------------------------------

    @property
    def errors(self) -> int:
        return self._errors.count

    @property
    def conflicts(self) -> list[str]:
        return self._conflicts.told

    @property
    def malformed(self) -> int:
        return sum(getattr(closable, "malformed", 0) for closable in self._closables)

    def _on_incompatible_qos(self, topic: str, peer: str, info: Any) -> None:
        policy = qos_policy_name_from_kind(info.last_policy_kind)
        if policy == "INVALID":  # Cyclone's word for a peer of another type
            self._group("_graph").post(self._look_around)
            return
        self._conflicts.report(f"{topic}: a {peer} asks for or offers another {policy} than ours: no message passes")

    def _look(self) -> None:
        nodes = sorted(self._node.get_node_names_and_namespaces())
        if nodes != self._nodes:
            self._nodes, self._looks_left = nodes, _LOOKS_AFTER_CHANGE
        self._looks_left -= 1
        if self._looks_left >= 0 or self._looks_left % _LOOK_AT_ALL_EVERY == 0:
            self._look_around()

    def _look_around(self) -> None:
        mine = (self.name, self._namespace)
        if sum(known == mine for known in self._node.get_node_names_and_namespaces()) > 1:
            full_name = resolve(self._namespace, self.name)
            self._conflicts.report(f"another node is named {full_name}: give one another node_name")
        for topic, msg_type in list(self._types.items()):
            publishers = self._node.get_publishers_info_by_topic(topic)
            self._compare(topic, msg_type, "publisher", publishers)
            self._compare(topic, msg_type, "subscription", self._node.get_subscriptions_info_by_topic(topic))

    def _compare(self, topic: str, msg_type: str, role: str, endpoints: list[Any]) -> None:
        for one in endpoints:
            if one.topic_type == msg_type:
                continue
            peer = f"{one.node_namespace.rstrip('/')}/{one.node_name}"
            if one.node_name == _NAMELESS:
                seen = (topic, role, one.topic_type)
                if seen not in self._nameless:  # its node may be discovered yet
                    self._nameless.add(seen)
                    continue
                peer = "an unknown process"
            self._conflicts.report(
                f"{topic}: a {role} of {peer} is of type {one.topic_type}, ours of {msg_type}: "
                "they do not hear each other; rename one topic"
            )

    # -- the protocol -------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def on_clock_jump(self, callback: Callable[[int], None]) -> None:
        def on_jump(jump: Any) -> None:
            back_ns = -int(jump.delta.nanoseconds)
            if back_ns > 0:
                self._logger.warning("/clock jumped back by %.3f s", back_ns / 1e9)
                self._group("_clock").post(partial(callback, back_ns))

        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        handle = self._node.get_clock().create_jump_callback(threshold, post_callback=on_jump)
        self._closables.append(_Jump(handle))

    def create_publisher(self, topic: str, msg_type: str, qos: QoS = _DEFAULT_QOS) -> RosPublisher:
        full = resolve(self._namespace, topic)
        self._types[full] = msg_type
        events = PublisherEventCallbacks(incompatible_qos=partial(self._on_incompatible_qos, full, "subscription"))
        return self._keep(RosPublisher(self._node, full, msg_type, qos, events))

    def create_subscription(
        self,
        topic: str,
        msg_type: str,
        callback: Callable[[Message], None],
        qos: QoS = _DEFAULT_QOS,
        *,
        group: str = "default",
    ) -> RosSubscription:
        full = resolve(self._namespace, topic)
        self._types[full] = msg_type
        events = SubscriptionEventCallbacks(incompatible_qos=partial(self._on_incompatible_qos, full, "publisher"))
        subscription = RosSubscription(
            self._node, full, msg_type, callback, qos, self._group(group), MutuallyExclusiveCallbackGroup(), events,
            self._logger,
        )  # fmt: skip
        return self._keep(subscription)

    def create_timer(self, period_s: float, callback: Callable[[], None], *, group: str = "default") -> Timer:
        return self._group(group).add_timer(period_s, callback)

    def create_action_server(
        self,
        name: str,
        action_type: str,
        execute: Execute,
        *,
        accept: Callable[[Message], bool] | None = None,
        max_concurrent: int = 4,
    ) -> RosActionServer:
        server = RosActionServer(
            self._node, resolve(self._namespace, name), action_type, execute, accept, max_concurrent,
            MutuallyExclusiveCallbackGroup(), self._on_executor, self._errors.report, self._conflicts.report,
        )  # fmt: skip
        self._servers.append(server)
        return self._keep(server)

    def create_action_client(self, name: str, action_type: str, *, group: str = "default") -> RosActionClient:
        full = resolve(self._namespace, name)
        callbacks = MutuallyExclusiveCallbackGroup()
        return self._keep(
            RosActionClient(self._node, full, action_type, callbacks, self._group(group), self._on_executor)
        )

    def create_service(
        self, name: str, srv_type: str, callback: Callable[[Message], Message], *, group: str = "default"
    ) -> RosService:
        full = resolve(self._namespace, name)
        callbacks = MutuallyExclusiveCallbackGroup()
        return self._keep(RosService(self._node, full, srv_type, callback, self._group(group), callbacks))

    def create_client(self, name: str, srv_type: str, *, group: str = "default") -> RosServiceClient:
        """A client of a service (not part of the protocol; for tests and tools)."""
        full, callbacks = resolve(self._namespace, name), MutuallyExclusiveCallbackGroup()
        client = RosServiceClient(self._node, full, srv_type, self._group(group), callbacks, self._on_executor)
        return self._keep(client)

    def _group(self, name: str) -> Group:
        with self._lock:
            if name not in self._groups:
                self._groups[name] = Group(f"{self.name}/{name}", self._errors.report)
            return self._groups[name]

    def _keep(self, closable: C) -> C:
        self._closables.append(closable)
        return closable

    def close(self) -> None:
        """Abort running goals, stop every thread, leave the graph. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            closing = threading.Thread(target=self._leave, name=f"{self.name}/_leave", daemon=True)
            deadline = time.monotonic() + _CLOSE_S
        atexit.unregister(self.close)
        goals = [goal for server in self._servers for goal in server.abort_all()]
        workers = [goal.worker for goal in goals if goal.worker is not None]
        threads = [*workers, *(group.thread for group in self._groups.values())]
        for group in self._groups.values():
            group.stop()
        if threading.current_thread() is not self._spinner:
            self._settle(goals, deadline)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        hanging = [thread.name for thread in threads if thread.is_alive() and thread is not threading.current_thread()]
        if hanging:
            self._logger.warning("still running after close: %s", ", ".join(hanging))
        self._closed = True
        self._executor.wake()
        try:
            closing.start()
        except RuntimeError:  # Python 3.12 starts no threads in exit handlers
            self._leave()
        else:
            closing.join(0.6)

    def _leave(self) -> None:
        if self._spinner is not threading.current_thread():
            self._spinner.join(0.5)
        for closable in self._closables:
            closable.close()
        self._executor.shutdown(timeout_sec=0.2)
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


class _Jump:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def close(self) -> None:
        self._handle.unregister()
