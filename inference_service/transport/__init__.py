"""The rooms that know DDS and ROS, behind one small protocol (``protocol.py``)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from inference_service.core.errors import TransportError
from inference_service.transport.protocol import Node

_TRANSPORTS = {
    "dds": ("inference_service.transport.dds.node", "DdsNode", "cyclonedds"),
    "ros": ("inference_service.transport.ros.node", "RosNode", "rclpy"),
}


def create_node(name: str, transport: str = "dds", **options: Any) -> Node:
    """A node of the ROS 2 graph.

    ``dds`` needs no ROS (options: ``domain_id``, ``use_sim_time``, ``namespace``, ``gid_size``); ``ros`` runs on rclpy;
    ``auto`` is ``ros`` where rclpy can be imported, else ``dds``, which stands in the same graph.

    Raises:
        TransportError: unknown transport, its library is not installed, or the node cannot join.
    """
    if transport == "auto":
        transport = _best()
    if transport not in _TRANSPORTS:
        raise TransportError(f"transport {transport!r}: wants one of auto, {', '.join(_TRANSPORTS)}")
    module, class_name, library = _TRANSPORTS[transport]
    if not _installed(library):
        raise TransportError(f"transport {transport!r} needs {library}, which is not installed here")
    return cast(Node, getattr(import_module(module), class_name)(name, **options))


def _best() -> str:
    return "ros" if _installed("rclpy") and _installed("inference_service.transport.ros") else "dds"


def _installed(library: str) -> bool:
    """A mere folder of that name on the path, which Python would import too, is no library."""
    spec = find_spec(library)
    return spec is not None and spec.origin is not None
