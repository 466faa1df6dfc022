"""Publishers, subscriptions, services and clients of :mod:`rclpy.node`."""

from __future__ import annotations

import inspect
import logging
import threading

from inference_service.core.errors import TransportError
from inference_service.transport.dds.endpoints import RawReader, RawWriter, user_data
from inference_service.transport.dds.idl import message_layout
from inference_service.transport.dds.services import ServiceClient, ServiceServer
from inference_service.wire.interfaces import service_types
from rclpy._rclpy_pybind11 import Entity, RCLError
from rclpy.interfaces import from_wire, to_wire
from rclpy.qos import dds_qos
from rclpy.serialization import deserialize_message, readable, serialize_message
from rclpy.task import Future

_logger = logging.getLogger("rclpy")


class _Announced:
    """An endpoint that closes itself and its entry in the node graph."""

    def __init__(self, graph, endpoint):
        self.endpoint, self._graph = endpoint, graph

    def close(self):
        self._graph.remove(self.endpoint.guid)
        self.endpoint.close()


class Publisher:
    def __init__(self, node, msg_type, topic, qos_profile, event_callbacks):
        self.msg_type, self.topic = msg_type, topic
        handle, self._context = node.handle, node.context
        type_name = msg_type.TYPE
        layout, data = message_layout(type_name), user_data(type_name)
        self._writer = RawWriter(handle.participant, f"rt{topic}", layout, dds_qos(qos_profile), data)
        handle.graph.add_writer(self._writer.guid)
        self.handle = Entity(handle, _Announced(handle.graph, self._writer))
        self.event_handlers = event_callbacks.create_event_handlers(self._writer.entity, topic, True)

    def publish(self, msg):
        with self.handle:
            if isinstance(msg, self.msg_type):
                msg = serialize_message(msg)
            elif not isinstance(msg, bytes):
                raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")
            if not self._context.ok():
                raise RCLError("Failed to publish: publisher's context is invalid")
            try:
                self._writer.write(msg)
            except TransportError as error:
                raise RCLError(f"Failed to publish: {error}") from error

    def get_subscription_count(self):
        with self.handle:
            return self._writer.matched

    def destroy(self):
        for handler in self.event_handlers:
            handler.destroy()
        self.handle.destroy_when_not_in_use()


class Subscription:
    def __init__(self, node, msg_type, topic, callback, callback_group, qos_profile, raw, event_callbacks):
        inspect.signature(callback).bind(object())  # with message info: not simulated
        self.msg_type, self.topic, self.callback, self.raw = msg_type, topic, callback, raw
        self.callback_group = callback_group
        handle = node.handle
        type_name = msg_type.TYPE
        layout, data = message_layout(type_name), user_data(type_name)
        self._reader = RawReader(handle.participant, f"rt{topic}", layout, dds_qos(qos_profile), data)
        handle.graph.add_reader(self._reader.guid)
        self.handle = Entity(handle, _Announced(handle.graph, self._reader))
        self._node_handle = handle
        self._token = handle.add_reader(self._reader.entity, self)
        self.event_handlers = event_callbacks.create_event_handlers(self._reader.entity, topic, False)

    def handle_one(self):
        """On the executor's thread."""
        with self.handle:
            taken = self._reader.take()
            if taken is None:
                return
            cdr = bytes(taken.cdr)
            message = cdr if self.raw else deserialize_message(cdr, self.msg_type)
        self.callback(message)

    def get_publisher_count(self):
        with self.handle:
            return self._reader.matched

    def destroy(self):
        for handler in self.event_handlers:
            handler.destroy()
        self._node_handle.remove_reader(self._token)
        self.handle.destroy_when_not_in_use()


class StrictServer(ServiceServer):
    """A request that does not decode leaves ``spin_once`` as an error, as what the C layer cannot take does."""

    def handle_one(self):
        before = self.malformed
        done = super().handle_one()
        if self.malformed > before:
            raise RCLError(f"Failed to take request of {self.label}")
        return done

    def _handle(self, cdr, writer):
        view, header = bytes(cdr), slice(4, 20)  # client and number stand between encapsulation and message
        text = readable(view[:4] + view[header.stop :], self._types.request)
        super()._handle(text[:4] + view[header] + text[4:], writer)


class Service:
    def __init__(self, node, srv_type, srv_name, callback, callback_group, qos_profile):
        self.srv_type, self.srv_name, self.callback = srv_type, srv_name, callback
        self.callback_group = callback_group
        self._types = service_types(srv_type.TYPE)
        self._server = StrictServer(node.handle.wiring, node.handle, srv_name, self._types, self._on_request)
        self.handle = Entity(node.handle, self._server)

    def _on_request(self, header, request):
        with self.handle:
            request = from_wire(request, self._types.request)
        response = self.callback(request, self.srv_type.Response())
        self.send_response(response, header)

    def send_response(self, response, header):
        if not isinstance(response, self.srv_type.Response):
            raise TypeError
        with self.handle:
            self._server.reply(header, to_wire(response))

    def destroy(self):
        self.handle.destroy_when_not_in_use()


class _NumberedClient(ServiceClient):
    """Tells the number of each request, and hands every answer over with its number."""

    def __init__(self, wiring, group, name, types, on_response):
        self._on_response = on_response
        self._order = threading.Lock()
        super().__init__(wiring, group, name, types)

    def send(self, request):
        with self._order:
            number = self._sequence + 1
            self.call(request, lambda response: self._on_response(number, response))
            return number


class Client:
    def __init__(self, node, srv_type, srv_name, qos_profile, callback_group):
        self.srv_type, self.srv_name, self.callback_group = srv_type, srv_name, callback_group
        self._node = node
        self._types = service_types(srv_type.TYPE)
        self._pending = {}
        self._lock = threading.Lock()
        self._client = _NumberedClient(node.handle.wiring, node.handle, srv_name, self._types, self._on_response)
        self.handle = Entity(node.handle, self._client)

    def service_is_ready(self):
        with self.handle:
            return self._client.is_ready

    def call_async(self, request):
        if not isinstance(request, self.srv_type.Request):
            raise TypeError
        with self._lock, self.handle:
            future = Future()
            self._pending[self._client.send(to_wire(request))] = future
        return future

    def remove_pending_request(self, future):
        with self._lock:
            self._pending = {number: one for number, one in self._pending.items() if one is not future}

    def _on_response(self, number, response):
        with self._lock:
            future = self._pending.pop(number, None)
        if future is not None:
            future._set_executor(self._node.executor)
            future.set_result(from_wire(response, self._types.response))

    def destroy(self):
        self.handle.destroy_when_not_in_use()
