"""``rclpy.serialization``: bytes out and bytes in, of the class that is named."""

from __future__ import annotations

from inference_service.core.errors import MalformedMessage
from inference_service.wire.interfaces import deserialize, serialize
from rclpy._rclpy_pybind11 import RMWError
from rclpy.interfaces import check_is_message, from_wire, to_wire


def serialize_message(message):
    check_is_message(type(message))
    return bytes(serialize(to_wire(message), message.TYPE))


def readable(cdr, type_name):
    """``cdr`` with text that is no UTF-8 replaced: rclpy reads it as U+FFFD, here it is ``?`` to keep the length."""
    while True:
        try:
            deserialize(cdr, type_name)
        except MalformedMessage as error:
            cause = error
            while cause is not None and not isinstance(cause, UnicodeDecodeError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            bad = bytes(cause.object)
            cdr = bytes(cdr).replace(bad, bad[: cause.start] + b"?" * (cause.end - cause.start) + bad[cause.end :])
        else:
            return cdr


def deserialize_message(serialized_message, message_type):
    check_is_message(message_type)
    if not isinstance(serialized_message, bytes):
        raise TypeError(f"deserialize(): incompatible function arguments: {type(serialized_message)}, wants bytes")
    try:
        text = readable(serialized_message, message_type.TYPE)
        return from_wire(deserialize(text, message_type.TYPE), message_type.TYPE)
    except MalformedMessage as error:
        raise RMWError("failed to deserialize ROS message") from error
