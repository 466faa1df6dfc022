"""``rclpy.serialization``: bytes out and bytes in, of the class that is named."""

from __future__ import annotations

from inference_service.core.errors import MalformedMessage
from inference_service.wire.interfaces import deserialize, serialize
from rclpy._rclpy_pybind11 import RMWError
from rclpy.interfaces import check_is_message, from_wire, to_wire


def serialize_message(message):
    check_is_message(type(message))
    return bytes(serialize(to_wire(message), message.TYPE))


def deserialize_message(serialized_message, message_type):
    check_is_message(message_type)
    if not isinstance(serialized_message, bytes):
        raise TypeError(f"deserialize(): incompatible function arguments: {type(serialized_message)}, wants bytes")
    try:
        return from_wire(deserialize(serialized_message, message_type.TYPE), message_type.TYPE)
    except MalformedMessage as error:
        raise RMWError("failed to deserialize ROS message") from error
