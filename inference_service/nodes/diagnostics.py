"""``/diagnostics`` for every node: collected once a second, and at once when something changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from inference_service.readiness import remove_status, write_status
from inference_service.transport.protocol import Message, Node
from inference_service.wire.interfaces import get_message

NANOSECONDS = 1_000_000_000


class Level(IntEnum):
    """``diagnostic_msgs/msg/DiagnosticStatus`` levels."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Status:
    """One line of diagnostics. ``values`` are strings, as ROS wants them.

    ``ready`` is for health checks: whether the node does its own part, whatever its peers do.
    """

    level: Level
    name: str
    message: str
    values: Mapping[str, str] = field(default_factory=dict)
    hardware_id: str = ""
    ready: bool = True

    def to_message(self) -> Message:
        """A ``diagnostic_msgs/msg/DiagnosticStatus``."""
        key_value = get_message("diagnostic_msgs/msg/KeyValue")
        return get_message("diagnostic_msgs/msg/DiagnosticStatus")(
            level=int(self.level),
            name=self.name,
            message=self.message,
            hardware_id=self.hardware_id,
            values=[key_value(key=k, value=v) for k, v in self.values.items()],
        )


def stamp_message(now_ns: int) -> Message:
    """A ``builtin_interfaces/msg/Time``."""
    return get_message("builtin_interfaces/msg/Time")(sec=now_ns // NANOSECONDS, nanosec=now_ns % NANOSECONDS)


def stamp_to_ns(stamp: Message) -> int:
    """Nanoseconds of a ``builtin_interfaces/msg/Time``."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


class DiagnosticsPublisher:
    """Publishes what ``collect`` returns on ``/diagnostics``."""

    def __init__(self, node: Node, collect: Callable[[], list[Status]], period_s: float = 1.0) -> None:
        self._node = node
        self._collect = collect
        self._publisher = node.create_publisher("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        self._timer = node.create_timer(period_s, self.publish_now, group="diagnostics")

    def publish_now(self) -> None:
        """Collect and publish at once, on the calling thread."""
        header = get_message("std_msgs/msg/Header")(stamp=stamp_message(self._node.now_ns()), frame_id="")
        array = get_message("diagnostic_msgs/msg/DiagnosticArray")
        statuses = [self._with_peers(status) for status in self._collect()]
        self._publisher.publish(array(header=header, status=[s.to_message() for s in statuses]))
        waiting = [s.message for s in statuses if not s.ready]
        write_status(self._node.name, ready=not waiting, message="; ".join(waiting))

    def _with_peers(self, status: Status) -> Status:
        """What the transport has to say of other processes: bytes that did not decode, endpoints that do not match."""
        conflicts = self._node.conflicts
        told = {
            "malformed_messages": str(self._node.malformed),
            "peer_conflicts": str(len(conflicts)),
            **({"last_peer_conflict": conflicts[-1]} if conflicts else {}),
        }
        return replace(status, values={**status.values, **told})

    def close(self) -> None:
        self._timer.cancel()
        remove_status(self._node.name)
