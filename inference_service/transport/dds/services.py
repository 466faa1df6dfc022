"""ROS 2 services over a pair of topics, as rmw_cyclonedds lays them out.

Requests of ``/s`` go over ``rq/sRequest``, replies over ``rr/sReply``. After the encapsulation header each payload
starts with the client's id (uint64) and the number of the request (int64); a server echoes both, and a client takes
the replies that bear its own id. USER_DATA ties the two endpoints of one side together (``serviceid=``,
``clientid=``): a server answers when the reader of the client that asked has been matched, so that no reply
is lost while discovery is under way.
"""

from __future__ import annotations

import logging
import random
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from inference_service.core.errors import MalformedMessage, TransportError
from inference_service.transport.dds import native
from inference_service.transport.dds.endpoints import RawReader, RawWriter, user_data
from inference_service.transport.dds.executor import FixedRateTimer, Group
from inference_service.transport.dds.graph import Wiring
from inference_service.transport.dds.idl import service_layout
from inference_service.transport.dds.native import Buffer, NativeError
from inference_service.transport.protocol import Message, QoS
from inference_service.wire.interfaces import ServiceTypes, deserialize, serialize

_HEADER = struct.Struct("<Qq")
_PREFIX = 4  # encapsulation
_BODY = _PREFIX + _HEADER.size
_QOS = QoS()
_RETRY_S = 0.005
_GIVE_UP_S = 2.0
_MAX_REMEMBERED = 64
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestId:
    """Who asked: id of the client, number of its request, and handle of the writer it came by."""

    client: int
    sequence: int
    writer: int


def encode(client: int, sequence: int, message: Message, type_name: str) -> bytes:
    """Payload of a request or reply."""
    cdr = serialize(message, type_name)
    return b"".join((cdr[:_PREFIX], _HEADER.pack(client, sequence), cdr[_PREFIX:]))


def decode(cdr: Buffer, type_name: str) -> tuple[int, int, Message]:
    """Client id, request number and message of a payload.

    Raises:
        MalformedMessage: too short, or the message does not decode.
    """
    if len(cdr) < _BODY:
        raise MalformedMessage(f"{type_name}: {len(cdr)} bytes are too short for a service header")
    view = memoryview(cdr)
    client, sequence = struct.unpack_from("<Qq" if view[1] & 1 else ">Qq", view, _PREFIX)
    return client, sequence, deserialize(bytes(view[:_PREFIX]) + bytes(view[_BODY:]), type_name)


class _Side:
    """The two endpoints of one side of a service."""

    def __init__(self, wiring: Wiring, group: Group, name: str, types: ServiceTypes, server: bool) -> None:
        self.label = f"{'service' if server else 'client of'} {name}"
        self.malformed = 0
        self._types = types
        self._graph = wiring.graph
        self._group = group
        self._id = random.getrandbits(64)
        requests = (f"rq{name}Request", service_layout(types.request))
        replies = (f"rr{name}Reply", service_layout(types.response))
        inward, outward = (requests, replies) if server else (replies, requests)
        data = user_data(types.service, **{"serviceid" if server else "clientid": f"{self._id:016x}"})
        self._reader = RawReader(wiring.participant, *inward, _QOS, data)
        self._writer = RawWriter(wiring.participant, *outward, _QOS, data)
        self._graph.add_reader(self._reader.guid)
        self._graph.add_writer(self._writer.guid)
        self._token = 0

    def _listen(self) -> None:
        """Start reading; the last step of every constructor."""
        self._token = self._group.add_reader(self._reader.entity, self)

    def handle_one(self) -> bool:
        try:
            taken = self._reader.take()
        except NativeError:  # closed by another thread
            return False
        if taken is None:
            return False
        try:
            self._handle(taken.cdr, taken.writer)
        except MalformedMessage as error:
            self.malformed += 1
            if self.malformed == 1:
                _logger.warning("%s: %s (counted, further ones are not reported)", self.label, error)
        return True

    def _handle(self, cdr: Buffer, writer: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        self._group.remove_reader(self._token)
        for endpoint in (self._reader, self._writer):
            self._graph.remove(endpoint.guid)
            endpoint.close()


class ServiceServer(_Side):
    """Hands each request to ``handle(id, request)``, which answers with :meth:`reply`, now or later."""

    def __init__(
        self,
        wiring: Wiring,
        group: Group,
        name: str,
        types: ServiceTypes,
        handle: Callable[[RequestId, Message], None],
    ) -> None:
        super().__init__(wiring, group, name, types, server=True)
        self._on_request = handle
        self._lock = threading.Lock()
        self._matched_clients: OrderedDict[int, None] = OrderedDict()
        self._waiting: list[tuple[float, RequestId, bytes]] = []
        self._retry: FixedRateTimer | None = None
        self._sending = threading.Lock()
        self._closed = False
        self._listen()

    def _handle(self, cdr: Buffer, writer: int) -> None:
        client, sequence, request = decode(cdr, self._types.request)
        self._on_request(RequestId(client, sequence, writer), request)

    def reply(self, request: RequestId, message: Message) -> None:
        """Answer; safe from any thread. For a client whose reader is not matched yet the answer waits a little.
        Once the service is closed nothing is sent: the client learns of it by the service that is gone.

        Raises:
            TransportError: the answer cannot be handed to DDS in time.
        """
        payload = encode(request.client, request.sequence, message, self._types.response)
        if self._send(request, payload):
            return
        with self._lock:
            self._waiting.append((time.monotonic() + _GIVE_UP_S, request, payload))
            del self._waiting[:-_MAX_REMEMBERED]
            if self._retry is None:
                self._retry = self._group.add_timer(_RETRY_S, self._send_waiting)

    def _send(self, request: RequestId, payload: bytes) -> bool:
        """False while the client cannot hear it yet."""
        with self._sending:
            if self._closed:
                return True
            matched = self._client_is_matched(request.writer)
            if matched:
                self._writer.write(payload)
            return matched

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        now = time.monotonic()
        for until, request, payload in waiting:
            if not self._send(request, payload) and now < until:
                with self._lock:
                    self._waiting.append((until, request, payload))
        with self._lock:
            if not self._waiting and self._retry is not None:
                self._retry.cancel()
                self._retry = None

    def _client_is_matched(self, writer: int) -> bool:
        """Whether an answer to that writer's side would arrive. True as well for one that names no client."""
        if writer in self._matched_clients:
            return True
        client = _client_id(native.writer_user_data(self._reader.entity, writer))
        if client is not None and not self._has_reader_of(client):
            return False
        self._matched_clients[writer] = None
        if len(self._matched_clients) > _MAX_REMEMBERED:
            self._matched_clients.popitem(last=False)
        return True

    def _has_reader_of(self, client: bytes) -> bool:
        entity = self._writer.entity
        return any(
            _client_id(native.reader_user_data(entity, handle)) == client for handle in native.matched_readers(entity)
        )

    def close(self) -> None:
        """Idempotent. An answer that is being sent goes out; later ones do not."""
        with self._sending:
            self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        super().close()


def _client_id(data: bytes | None) -> bytes | None:
    entries = (data or b"").split(b";")
    return next((entry for entry in entries if entry.startswith(b"clientid=")), None)


class ServiceClient(_Side):
    """Asks and does not wait: each answer goes to the callback of its request, on the group's thread."""

    def __init__(self, wiring: Wiring, group: Group, name: str, types: ServiceTypes) -> None:
        super().__init__(wiring, group, name, types, server=False)
        self._lock = threading.Lock()
        self._sequence = 0
        self._pending: OrderedDict[int, Callable[[Message], None]] = OrderedDict()
        self._listen()

    @property
    def is_ready(self) -> bool:
        """Whether a server has been matched both ways. Never blocks."""
        return self._writer.matched > 0 and self._reader.matched > 0

    def call(self, request: Message, on_response: Callable[[Message], None]) -> None:
        """Send; ``on_response`` is called at most once. A request whose server went away is never answered: only
        the newest 64 unanswered ones are remembered.

        Raises:
            TransportError: the request cannot be handed to DDS in time.
        """
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
            self._pending[sequence] = on_response
            if len(self._pending) > _MAX_REMEMBERED:
                self._pending.popitem(last=False)
        try:
            self._writer.write(encode(self._id, sequence, request, self._types.request))
        except TransportError:
            self._pending.pop(sequence, None)
            raise

    def _handle(self, cdr: Buffer, writer: int) -> None:
        if len(cdr) >= _BODY and _HEADER.unpack_from(cdr, _PREFIX)[0] != self._id:
            return  # another client's
        _, sequence, response = decode(cdr, self._types.response)
        with self._lock:
            on_response = self._pending.pop(sequence, None)
        if on_response is not None:
            on_response(response)
