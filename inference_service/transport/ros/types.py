"""Between our message objects and rclpy's: the same bytes, two classes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from inference_service.core.errors import TransportError
from inference_service.transport.protocol import Message
from inference_service.wire.interfaces import deserialize, serialize

# Messages that rosidl derives from an action stand in the action's class, not beside it.
_ACTION_PARTS = {
    "_FeedbackMessage": "FeedbackMessage",
    "_SendGoal": "SendGoalService",
    "_GetResult": "GetResultService",
}


def ros_class(type_name: str) -> Any:
    """rclpy's class of ``pkg/msg/T``, ``pkg/srv/T``, ``pkg/action/T`` or a message of the latter.

    Raises:
        TransportError: the package is not in this ROS installation.
    """
    package, kind, name = type_name.split("/")
    try:
        module = import_module(f"{package}.{kind}")
        for suffix, part in _ACTION_PARTS.items():
            if kind == "action" and name.endswith(suffix):
                return getattr(getattr(module, name.removesuffix(suffix)).Impl, part)
        return getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise TransportError(
            f"{type_name} is not installed here ({error}): build {package} with colcon and source its setup.bash, "
            "or use transport:=dds, which needs no interface packages"
        ) from error


def to_ros(message: Message, type_name: str, cls: Any) -> Any:
    """Our message as an instance of rclpy's class."""
    return deserialize_message(bytes(serialize(message, type_name)), cls)


def from_ros(message: Any, type_name: str) -> Message:
    """rclpy's message as ours."""
    return deserialize(serialize_message(message), type_name)
