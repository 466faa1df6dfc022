"""The small protocol that nodes are written against; ``dds`` and ``ros`` implement it.

Messages are the message classes of :mod:`inference_service.wire.interfaces` (numpy arrays inside),
whatever the transport. Callbacks run on the thread of their *group*: one thread a group, so callbacks
of one group never overlap. An exception that leaves a callback is logged with its traceback, counted in
``Node.errors`` and reported by the node's diagnostics; the group goes on with the next message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, Protocol

Message = Any
"""An instance of a message class from :mod:`inference_service.wire.interfaces`."""


@dataclass(frozen=True)
class QoS:
    """ROS 2 QoS. The defaults are rclpy's: reliable, volatile, keep last 10.

    ``lifespan_s``: age at which a publisher's kept message is given to nobody any more; None for never.
    """

    depth: int = 10
    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"
    lifespan_s: float | None = None


class GoalStatus(IntEnum):
    """``action_msgs/msg/GoalStatus``."""

    UNKNOWN = 0
    ACCEPTED = 1
    EXECUTING = 2
    CANCELING = 3
    SUCCEEDED = 4
    CANCELED = 5
    ABORTED = 6


class Publisher(Protocol):
    topic: str

    def publish(self, message: Message) -> None:
        """Serialise and send. Raises TransportError when the message cannot be handed to DDS in time."""
        ...

    def publish_serialized(self, cdr: bytes | bytearray | memoryview) -> None:
        """Send ready CDR (4-byte encapsulation header included)."""
        ...

    @property
    def matched(self) -> int:
        """Number of subscriptions seen on the other side."""
        ...

    def close(self) -> None: ...


class Subscription(Protocol):
    topic: str
    malformed: int
    """Messages dropped because their bytes did not decode (each reported once per publisher)."""
    sent_ns: int
    """When the message that the callback is handling was sent, by its sender's system clock; 0 where the transport does
    not tell."""

    @property
    def matched(self) -> int: ...

    def close(self) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class ServerGoal(Protocol):
    """A goal on the server side, handed to the execute callback."""

    goal_id: bytes
    request: Message

    @property
    def cancel_requested(self) -> bool: ...

    def publish_feedback(self, feedback: Message) -> None: ...


class ClientGoal(Protocol):
    """A goal on the client side."""

    goal_id: bytes

    def cancel(self) -> None:
        """Ask the server to cancel; asynchronous, never raises for a server that is away."""
        ...


ResultCallback = Callable[[GoalStatus, Any], None]
"""Called with the final status and the result message (``None`` where the goal was rejected)."""


class ActionClient(Protocol):
    @property
    def server_is_ready(self) -> bool:
        """Whether a server has been discovered and matched. Never blocks."""
        ...

    def send_goal(self, request: Message, on_result: ResultCallback) -> ClientGoal:
        """Send and return at once. ``on_result`` runs on the client's group thread, at most once.

        There is no time-out here: who sends a goal keeps its own deadline and cancels.
        """
        ...

    def close(self) -> None: ...


class ActionServer(Protocol):
    def close(self) -> None: ...


class Service(Protocol):
    def close(self) -> None: ...


class Node(Protocol):
    name: str
    """Without the leading slash."""
    describes_types: bool
    """Whether the transport serves ``~/get_type_description`` itself, as ROS nodes of iron and later do."""
    errors: int
    """Exceptions that left callbacks."""
    conflicts: list[str]
    """Peers that cannot be heard, told apart or served (another QoS or type on a topic of ours, our node's name, a goal
    without an id, a cancel for a goal that nobody knows): one sentence each, logged once."""

    @property
    def malformed(self) -> int:
        """Messages, requests and responses whose bytes did not decode, in all."""
        ...

    def now_ns(self) -> int:
        """ROS time in nanoseconds: the system clock, or ``/clock`` where ``use_sim_time`` is set."""
        ...

    def on_clock_jump(self, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with how far (nanoseconds, above 0) whenever ``/clock`` jumps back, as it does when a
        simulation or a recording starts again. It runs on the thread of the clock and has to be quick; :meth:`now_ns`
        is the new time already. Never called where ``use_sim_time`` is not set."""
        ...

    def create_publisher(self, topic: str, msg_type: str, qos: QoS = QoS()) -> Publisher: ...

    def create_subscription(
        self,
        topic: str,
        msg_type: str,
        callback: Callable[[Message], None],
        qos: QoS = QoS(),
        *,
        group: str = "default",
    ) -> Subscription: ...

    def create_timer(self, period_s: float, callback: Callable[[], None], *, group: str = "default") -> Timer:
        """Fixed-rate timer on the monotonic clock, on the thread of ``group``; a late callback delays none after it
        and missed periods are skipped, never made up."""
        ...

    def create_action_server(
        self,
        name: str,
        action_type: str,
        execute: Callable[[ServerGoal], tuple[GoalStatus, Message]],
        *,
        accept: Callable[[Message], bool] | None = None,
        max_concurrent: int = 4,
    ) -> ActionServer:
        """``execute`` runs on a worker thread per goal and returns the final status and result."""
        ...

    def create_action_client(self, name: str, action_type: str, *, group: str = "default") -> ActionClient: ...

    def create_service(
        self, name: str, srv_type: str, callback: Callable[[Message], Message], *, group: str = "default"
    ) -> Service: ...

    def close(self) -> None:
        """Stop every thread, leave the graph. Idempotent; returns within 2 s."""
        ...
