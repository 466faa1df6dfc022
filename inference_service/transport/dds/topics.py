"""Publishers and subscriptions of ROS messages."""

from __future__ import annotations

import logging
from collections.abc import Callable

from inference_service.core.errors import MalformedMessage
from inference_service.transport.dds.endpoints import RawReader, RawWriter, user_data
from inference_service.transport.dds.executor import Group
from inference_service.transport.dds.graph import Wiring
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.dds.native import Buffer, NativeError
from inference_service.transport.protocol import Message, QoS
from inference_service.wire.interfaces import deserialize, serialize_parts

_MAX_REPORTED = 64


class DdsPublisher:
    """Implements :class:`~inference_service.transport.protocol.Publisher`. Safe to use from several threads."""

    def __init__(self, wiring: Wiring, topic: str, msg_type: str, qos: QoS) -> None:
        self.topic = topic
        self._msg_type = msg_type
        self._graph = wiring.graph
        self._writer = RawWriter(wiring.participant, f"rt{topic}", message_layout(msg_type), qos, user_data(msg_type))
        self._graph.add_writer(self._writer.guid)

    def publish(self, message: Message) -> None:
        parts = serialize_parts(message, self._msg_type)
        if len(parts) == 1:
            self._writer.write(parts[0])
        else:
            self._writer.write_parts(parts)

    def publish_serialized(self, cdr: Buffer) -> None:
        self._writer.write(cdr)

    @property
    def matched(self) -> int:
        return self._writer.matched

    def close(self) -> None:
        self._graph.remove(self._writer.guid)
        self._writer.close()


class DdsSubscription:
    """Implements :class:`~inference_service.transport.protocol.Subscription`.

    Arrays in a large message are read-only views of the DDS library's buffer, which lives as long as they do.
    """

    def __init__(
        self,
        wiring: Wiring,
        group: Group,
        topic: str,
        msg_type: str,
        callback: Callable[[Message], None],
        qos: QoS,
        logger: logging.Logger,
    ) -> None:
        self.topic = topic
        self.malformed = 0
        self.sent_ns = 0
        self.label = f"callback of {topic}"
        self._msg_type = msg_type
        self._callback = callback
        self._logger = logger
        self._graph = wiring.graph
        self._group = group
        self._reported: set[int] = set()
        self._reader = RawReader(wiring.participant, f"rt{topic}", message_layout(msg_type), qos, user_data(msg_type))
        self._graph.add_reader(self._reader.guid)
        self._token = group.add_reader(self._reader.entity, self)

    @property
    def matched(self) -> int:
        return self._reader.matched

    def handle_one(self) -> bool:
        """Take one sample and hand it to the callback, whose exceptions come out of here."""
        try:
            taken = self._reader.take()
        except NativeError:  # closed by another thread
            return False
        if taken is None:
            return False
        try:
            message = deserialize(taken.cdr, self._msg_type)
        except MalformedMessage as error:
            self._count_malformed(taken.writer, error)
            return True
        self.sent_ns = taken.sent_ns
        self._callback(message)
        return True

    def _count_malformed(self, writer: int, error: MalformedMessage) -> None:
        self.malformed += 1
        if writer not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(writer)
            self._logger.warning(
                "%s: dropped a message: %s (further ones of this publisher: counted)", self.topic, error
            )

    def close(self) -> None:
        """Idempotent. A callback that is running ends by itself."""
        self._group.remove_reader(self._token)
        self._graph.remove(self._reader.guid)
        self._reader.close()
