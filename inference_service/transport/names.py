"""Names of ROS 2: https://design.ros2.org/articles/topic_and_service_names.html."""

from __future__ import annotations

import re

from inference_service.core.errors import TransportError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def check_node_name(name: str, namespace: str) -> None:
    """Raises TransportError for what is no node name or namespace."""
    if not _NAME.fullmatch(name):
        raise TransportError(f"node name {name!r}: wants letters, digits and underscores, without a slash")
    if namespace != "/" and not _FULL_NAME.fullmatch(namespace):
        raise TransportError(f"namespace {namespace!r}: wants / or a name like /robot_1")


def resolve(namespace: str, name: str) -> str:
    """The full name of a topic, service or action; one without a leading slash is within the namespace.

    Raises:
        TransportError: no ROS 2 name.
    """
    full = name if name.startswith("/") else f"{namespace.rstrip('/')}/{name}"
    if not _FULL_NAME.fullmatch(full):
        raise TransportError(
            f"{name!r} is no ROS 2 name: wants letters, digits and underscores between slashes, "
            "no part of it starting with a digit"
        )
    return full
