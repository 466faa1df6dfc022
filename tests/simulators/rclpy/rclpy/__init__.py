"""A simulator of rclpy, strict where rclpy is and stricter where rclpy only goes wrong now and then.

No part of rclpy: written anew from the behaviour of rclpy jazzy (https://github.com/ros2/rclpy, branch ``jazzy``),
so that the ``ros`` transport runs where ROS cannot be installed. It covers what that transport uses and nothing
else; what is missing raises AttributeError or NotImplementedError, it never pretends. Its middleware is this
repository's own ``dds`` layer, so both transports stand in one graph.
"""

from __future__ import annotations

from rclpy import interfaces
from rclpy.context import Context, get_default_context

SIMULATED = True
interfaces.install()


def init(*, args=None, context=None, domain_id=None, signal_handler_options=None):
    if signal_handler_options is not None or context is None:
        raise NotImplementedError("the simulator installs no signal handlers: give a context of your own")
    context.init(args, domain_id=domain_id)


def shutdown(*, context=None, uninstall_handlers=None):
    (get_default_context() if context is None else context).shutdown()


def ok(*, context=None):
    return (get_default_context() if context is None else context).ok()


def create_node(node_name, **options):
    from rclpy.node import Node

    return Node(node_name, **options)


__all__ = ["SIMULATED", "Context", "create_node", "init", "ok", "shutdown"]
