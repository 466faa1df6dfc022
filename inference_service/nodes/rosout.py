"""Log lines on ``/rosout``, where ``rqt_console``, ``ros2 bag`` and ``foxglove`` look for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import PurePath

from inference_service.core.errors import InferenceServiceError
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.interfaces import new_message

TOPIC = "/rosout"
LOG = "rcl_interfaces/msg/Log"
QOS = QoS(depth=1000, durability="transient_local", lifespan_s=10.0)
"""``rmw_qos_profile_rosout_default`` of rcl."""
PERIOD_S = 0.05
KEPT = 1000
_LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)  # ROS has the same numbers
_sending = threading.local()


class RosoutHandler(logging.Handler):
    """Publishes log records. Whoever logs only leaves the record here; a thread of its own sends it.

    Between two turns of that thread the newest :data:`KEPT` records are kept. What is logged while sending is not
    sent, or a transport that complains would be heard for ever.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._waiting: deque[logging.LogRecord] = deque(maxlen=KEPT)
        self._publisher = node.create_publisher(TOPIC, LOG, QOS)
        self._timer = node.create_timer(PERIOD_S, self.send_waiting, group="rosout")

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(_sending, "now", False):
            self._waiting.append(record)

    def send_waiting(self) -> None:
        """Publish what was logged since the last call; a record that cannot be sent is dropped."""
        _sending.now = True
        try:
            for _ in range(len(self._waiting)):
                self._publisher.publish(to_log(self._waiting.popleft()))
        except (IndexError, InferenceServiceError):
            return  # drained by close(), or the transport is closing: the console has every line
        finally:
            _sending.now = False

    def close(self) -> None:
        """Send what is left and stop. Idempotent."""
        self._timer.cancel()
        self.send_waiting()
        super().close()


def to_log(record: logging.LogRecord) -> Message:
    """A ``rcl_interfaces/msg/Log``; a traceback goes into the message."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    stamp_ns = round(record.created * 1e6) * 1000
    return new_message(
        LOG,
        stamp=new_message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9),
        level=next((level for level in _LEVELS if record.levelno >= level), logging.DEBUG),
        name=record.name,
        msg=text,
        file=PurePath(record.pathname).name,
        function=record.funcName or "",
        line=record.lineno,
    )
