"""``rclpy.action.client``. An answer that arrives before its request is remembered is lost, as in rclpy; so using
a client on any thread but the one that spins is refused here, while rclpy lets it go wrong now and then."""

from __future__ import annotations

import logging
import threading
import uuid

from inference_service.wire.interfaces import action_types
from rclpy._rclpy_pybind11 import Entity, Misuse
from rclpy.entities import _NumberedClient
from rclpy.interfaces import check_is_action, from_wire, message_class, to_wire
from rclpy.task import Future

_logger = logging.getLogger("rclpy")


class ClientGoalHandle:
    def __init__(self, client, goal_id, response):
        self._client, self.goal_id, self.accepted, self.stamp = client, goal_id, response.accepted, response.stamp

    def cancel_goal_async(self):
        info = message_class("action_msgs/msg/GoalInfo")(goal_id=self.goal_id)
        return self._client.ask("cancel_goal", message_class("action_msgs/srv/CancelGoal_Request")(goal_info=info))

    def get_result_async(self):
        request = self._client.action_type.Impl.GetResultService.Request(goal_id=self.goal_id)
        return self._client.ask("get_result", request)


class _Services:
    """The three of them, and what closes them."""

    def __init__(self, node, name, types, answered):
        self.clients = {}
        for part in ("send_goal", "get_result", "cancel_goal"):
            on_response = self._hand_over(part, answered)
            path = f"{name}/_action/{part}"
            self.clients[part] = _NumberedClient(
                node.handle.wiring, node.handle, path, getattr(types, part), on_response
            )

    @staticmethod
    def _hand_over(part, answered):
        return lambda number, response: answered(part, number, response)

    def close(self):
        for client in self.clients.values():
            client.close()


class ActionClient:
    def __init__(self, node, action_type, action_name, *, callback_group=None):
        check_is_action(action_type)
        self.action_type = action_type
        self._types = action_types(action_type.TYPE)
        self._node = node
        self._pending = {}
        self._goal_ids = {}
        with node.handle:
            self._services = _Services(node, node._resolved(action_name), self._types, self._on_response)
            self.handle = Entity(node.handle, self._services)
        node.add_waitable(self)

    def expire(self):
        """For the executor."""

    def server_is_ready(self):
        with self._node.handle, self.handle:
            return all(client.is_ready for client in self._services.clients.values())

    def send_goal_async(self, goal, feedback_callback=None, goal_uuid=None):
        if not isinstance(goal, self.action_type.Goal):
            raise TypeError
        goal_id = goal_uuid
        if goal_id is None:
            goal_id = message_class("unique_identifier_msgs/msg/UUID")(uuid=list(uuid.uuid4().bytes))
        request = self.action_type.Impl.SendGoalService.Request(goal_id=goal_id, goal=goal)
        return self.ask("send_goal", request, goal_id)

    def ask(self, part, request, goal_id=None):
        """Not of rclpy: a request to one of the three services, and the future of its answer."""
        executor = self._node.executor
        spinning = executor and executor.thread
        if spinning is not None and spinning is not threading.current_thread():
            raise Misuse(f"{part} on another thread than the executor's: its answer may be lost")
        with self.handle:
            number = self._services.clients[part].send(to_wire(request))
        future = Future()
        self._pending[part, number] = future
        self._goal_ids[part, number] = goal_id
        return future

    def _on_response(self, part, number, response):
        future = self._pending.pop((part, number), None)
        goal_id = self._goal_ids.pop((part, number), None)
        if future is None:
            _logger.warning("Ignoring unexpected %s response.", part)
            return
        answer = from_wire(response, getattr(self._types, part).response)
        future._set_executor(self._node.executor)
        future.set_result(ClientGoalHandle(self, goal_id, answer) if part == "send_goal" else answer)

    def destroy(self):
        self.handle.destroy_when_not_in_use()
        self._node.remove_waitable(self)
