"""``rclpy.event_handler``: what a publisher or subscription is told of its peers' QoS."""

from __future__ import annotations

import logging

from rclpy._rclpy_pybind11 import take_incompatible_qos
from rclpy.qos import qos_policy_name_from_kind

_logger = logging.getLogger("rclpy")


class _EventCallbacks:
    def __init__(self, *, incompatible_qos=None, use_default_callbacks=True):
        self.incompatible_qos = incompatible_qos
        self.use_default_callbacks = use_default_callbacks

    def create_event_handlers(self, entity, topic, writes):
        callback = self.incompatible_qos
        if callback is None and self.use_default_callbacks:

            def callback(event):
                _logger.warning(
                    "peer on topic '%s' with incompatible QoS. Last incompatible policy: %s",
                    topic,
                    qos_policy_name_from_kind(event.last_policy_kind),
                )

        return [] if callback is None else [EventHandler(entity, writes, callback)]


class SubscriptionEventCallbacks(_EventCallbacks):
    pass


class PublisherEventCallbacks(_EventCallbacks):
    pass


class EventHandler:
    """Polled by the executor."""

    def __init__(self, entity, writes, callback):
        self._entity, self._writes, self._callback = entity, writes, callback
        self.destroyed = False

    def poll(self):
        """A callable for the executor, or None."""
        event = None if self.destroyed else take_incompatible_qos(self._entity, self._writes)
        return None if event is None else lambda: self._callback(event)

    def destroy(self):
        self.destroyed = True
