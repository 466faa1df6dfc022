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
from functools import partial
from typing import Any, Protocol, TypeVar

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

from inference_service.core.errors import MalformedMessage, TransportError
from inference_service.transport.names import check_node_name, resolve
from inference_service.transport.protocol import Message, QoS
from inference_service.transport.ros.actions import Execute, RosActionClient, RosActionServer
from inference_service.transport.ros.groups import ErrorCount, Group, Timer
from inference_service.transport.ros.types import from_ros, ros_class, to_ros
from inference_service.wire.interfaces import deserialize, serialize, service_types

try:  # iron and later
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

_DEFAULT_QOS = QoS()
_ANSWER_S = 2.0
_CLOSE_S = 1.3
_TWIN_CHECK_S = 2.0


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


def qos_profile(qos: QoS) -> Any:
    """rclpy's QoSProfile of ours."""
    lifespan = {} if qos.lifespan_s is None else {"lifespan": Duration(seconds=qos.lifespan_s)}
    reliable, latched = qos.reliability == "reliable", qos.durability == "transient_local"
    return QoSProfile(
        depth=qos.depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        **lifespan,
    )


class RosPublisher:
    """Implements :class:`~inference_service.transport.protocol.Publisher`."""

    def __init__(self, node: Any, topic: str, msg_type: str, qos: QoS, events: Any) -> None:
        self.topic = topic
        self._type = msg_type
        self._node = node
        self._publisher = node.create_publisher(ros_class(msg_type), topic, qos_profile(qos), event_callbacks=events)

    def publish(self, message: Message) -> None:
        self.publish_serialized(serialize(message, self._type))

    def publish_serialized(self, cdr: bytes | bytearray | memoryview) -> None:
        publisher = self._publisher
        if publisher is None:
            raise TransportError(f"{self.topic}: the publisher is closed")
        try:
            publisher.publish(bytes(cdr))  # rclpy takes nothing else for serialised
        except RuntimeError as error:  # RCLError, InvalidHandle
            raise TransportError(f"{self.topic}: cannot send {len(cdr)} bytes: {error}") from error

    @property
    def matched(self) -> int:
        return 0 if self._publisher is None else int(self._publisher.get_subscription_count())

    def close(self) -> None:
        """Idempotent."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._node.destroy_publisher(publisher)


class RosSubscription:
    """Implements :class:`~inference_service.transport.protocol.Subscription`."""

    def __init__(
        self, node: Any, topic: str, msg_type: str, callback: Callable[[Message], None], qos: QoS, group: Group,
        callback_group: Any, events: Any, logger: logging.Logger,
    ) -> None:  # fmt: skip
        self.topic = topic
        self.malformed = 0
        self._type = msg_type
        self._node = node
        self._callback = callback
        self._group = group
        self._logger = logger
        self._waiting: deque[bytes] = deque(maxlen=qos.depth)
        self._subscription = node.create_subscription(
            ros_class(msg_type), topic, self._take, qos_profile(qos), callback_group=callback_group,
            event_callbacks=events, raw=True,
        )  # fmt: skip

    def _take(self, cdr: bytes) -> None:
        """On the executor's thread. As in DDS, the newest ``depth`` messages wait for a slow callback."""
        self._waiting.append(cdr)
        self._group.post(self._handle_one)

    def _handle_one(self) -> None:
        if not self._waiting or self._subscription is None:
            return
        try:
            message = deserialize(self._waiting.popleft(), self._type)
        except MalformedMessage as error:
            self.malformed += 1
            if self.malformed == 1:
                self._logger.warning("%s: dropped a message: %s (further ones: counted)", self.topic, error)
            return
        self._callback(message)

    @property
    def matched(self) -> int:
        subscription = self._subscription
        if subscription is None:
            return 0
        if hasattr(subscription, "get_publisher_count"):  # iron and later
            return int(subscription.get_publisher_count())
        return int(self._node.count_publishers(self.topic))

    def close(self) -> None:
        """Idempotent. A callback that is running ends by itself."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)


class RosService:
    """Implements :class:`~inference_service.transport.protocol.Service`."""

    def __init__(
        self, node: Any, name: str, srv_type: str, callback: Callable[[Message], Message], group: Group,
        callback_group: Any,
    ) -> None:  # fmt: skip
        self.name = name
        self._types = service_types(srv_type)
        self._class = ros_class(srv_type)
        self._node = node
        self._callback = callback
        self._group = group
        self._service = node.create_service(self._class, name, self._serve, callback_group=callback_group)

    def _serve(self, request: Any, _response: Any) -> Any:
        """On the executor's thread, which waits for the group's: rclpy has no later answer."""
        done = threading.Event()
        answers: list[Message] = []
        ours = from_ros(request, self._types.request)

        def answer() -> None:
            try:
                answers.append(self._callback(ours))
            finally:
                done.set()

        self._group.post(answer)
        if not done.wait(_ANSWER_S) or not answers:
            raise TransportError(f"service {self.name}: no answer within {_ANSWER_S:g} s, or it failed")
        return to_ros(answers[0], self._types.response, self._class.Response)

    def close(self) -> None:
        """Idempotent."""
        service, self._service = self._service, None
        if service is not None:
            self._node.destroy_service(service)


class RosNode:
    """A node with an rclpy context of its own; see :func:`inference_service.transport.create_node`."""

    def __init__(
        self, name: str, *, domain_id: int | None = None, use_sim_time: bool = False, namespace: str = "/"
    ) -> None:
        """``domain_id`` defaults to ``ROS_DOMAIN_ID``.

        Raises:
            TransportError: a bad name, or ROS cannot start.
        """
        check_node_name(name, namespace)
        self.name = name
        self.conflicts: list[str] = []
        self._namespace = namespace
        self._logger = logging.getLogger(name)
        self._failed = ErrorCount(self._logger)
        self._groups: dict[str, Group] = {}
        self._lock = threading.Lock()
        self._closables: list[Any] = []
        self._servers: list[RosActionServer] = []
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
        self.create_timer(_TWIN_CHECK_S, self._look_for_twin, group="_graph")
        atexit.register(self.close)

    # -- the executor's thread ----------------------------------------------------------------------------------

    def _spin(self) -> None:
        while not self._closed and self._context.ok():
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except ExternalShutdownException:
                return
            except Exception as error:  # noqa: BLE001  # one bad message must not silence the node
                self._failed(f"{self.name}/rclpy", error)

    def _on_executor(self, order: Callable[[], object]) -> None:
        self._orders.append(order)
        self._order_guard.trigger()

    def _carry_out(self) -> None:
        while self._orders:
            self._orders.popleft()()

    # -- telling ------------------------------------------------------------------------------------------------

    @property
    def errors(self) -> int:
        return self._failed.count

    @property
    def malformed(self) -> int:
        return sum(getattr(closable, "malformed", 0) for closable in self._closables)

    def _conflict(self, text: str) -> None:
        if text not in self.conflicts:
            self.conflicts.append(text)
            self._logger.warning("%s", text)

    def _on_incompatible_qos(self, topic: str, peer: str, info: Any) -> None:
        policy = qos_policy_name_from_kind(info.last_policy_kind)
        self._conflict(f"{topic}: a {peer} asks for or offers another {policy} than ours: no message passes")

    def _look_for_twin(self) -> None:
        mine = (self.name, self._namespace)
        if sum(known == mine for known in self._node.get_node_names_and_namespaces()) > 1:
            self._conflict(f"another node is named {resolve(self._namespace, self.name)}: give one another node_name")

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
            MutuallyExclusiveCallbackGroup(), self._on_executor, self._failed,
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

    def _group(self, name: str) -> Group:
        with self._lock:
            if name not in self._groups:
                self._groups[name] = Group(f"{self.name}/{name}", self._failed)
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
        workers = [worker for server in self._servers for worker in server.abort_all()]
        threads = [*workers, *(group.thread for group in self._groups.values())]
        for group in self._groups.values():
            group.stop()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        time.sleep(0.05)  # the executor sends the results of the aborted goals
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
