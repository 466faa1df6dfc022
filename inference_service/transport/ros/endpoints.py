"""Publishers, subscriptions and services on rclpy.

rclpy's executor runs the methods that its thread is named for below; what they start runs on the threads of the groups.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from inference_service.core.errors import MalformedMessage, TransportError
from inference_service.transport.protocol import Message, QoS
from inference_service.transport.ros.groups import Group
from inference_service.transport.ros.types import from_ros, ros_class, to_ros
from inference_service.wire.interfaces import deserialize, serialize, service_types

_ANSWER_S = 2.0


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
        self.label = f"callback of {topic}"
        self.malformed = 0
        self.sent_ns = 0
        self._type = msg_type
        self._node = node
        self._callback = callback
        self._group = group
        self._logger = logger
        self._waiting: deque[bytes] = deque(maxlen=qos.depth)
        self._closed = False
        # What a transient-local publisher kept may arrive before this returns.
        self._subscription: Any = None
        self._subscription = node.create_subscription(
            ros_class(msg_type), topic, self._take, qos_profile(qos), callback_group=callback_group,
            event_callbacks=events, raw=True,
        )  # fmt: skip

    def _take(self, cdr: bytes) -> None:
        """On the executor's thread. As in DDS, the newest ``depth`` messages wait for a slow callback."""
        self._waiting.append(cdr)
        self._group.post(self._handle_one)

    def _handle_one(self) -> None:
        if not self._waiting or self._closed:
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
        self._closed = True
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


class RosServiceClient:
    """Asks and does not wait, as :class:`inference_service.transport.dds.services.ServiceClient` does."""

    def __init__(
        self, node: Any, name: str, srv_type: str, group: Group, callback_group: Any,
        on_executor: Callable[[Callable[[], object]], None],
    ) -> None:  # fmt: skip
        self.name = name
        self._types = service_types(srv_type)
        self._class = ros_class(srv_type)
        self._node = node
        self._group = group
        self._on_executor = on_executor
        self._client = node.create_client(self._class, name, callback_group=callback_group)

    @property
    def is_ready(self) -> bool:
        """Whether a server has been matched. Never blocks."""
        return self._client is not None and bool(self._client.service_is_ready())

    def call(self, request: Message, on_response: Callable[[Message], None]) -> None:
        """Send; ``on_response`` is called at most once, on the group's thread."""
        theirs = to_ros(request, self._types.request, self._class.Request)

        def answered(future: Any) -> None:
            self._group.post(partial(on_response, from_ros(future.result(), self._types.response)))

        def send() -> None:
            if self._client is not None:
                self._client.call_async(theirs).add_done_callback(answered)

        self._on_executor(send)

    def close(self) -> None:
        """Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            self._node.destroy_client(client)
