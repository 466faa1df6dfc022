"""The client of a ROS 2 action: sends goals, waits for nothing, reports each result once."""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

import numpy as np

from inference_service.core.errors import TransportError
from inference_service.transport.dds.executor import Group
from inference_service.transport.dds.graph import Wiring
from inference_service.transport.dds.services import ServiceClient
from inference_service.transport.protocol import GoalStatus, Message, ResultCallback
from inference_service.wire.interfaces import action_types, new_message

_logger = logging.getLogger(__name__)


class DdsActionClient:
    """Implements :class:`~inference_service.transport.protocol.ActionClient`. Feedback and status are not read."""

    def __init__(self, wiring: Wiring, group: Group, name: str, action_type: str) -> None:
        self.name = name
        self.types = types = action_types(action_type)
        prefix = f"{name}/_action"
        self.send_goal_service = ServiceClient(wiring, group, f"{prefix}/send_goal", types.send_goal)
        self.get_result_service = ServiceClient(wiring, group, f"{prefix}/get_result", types.get_result)
        self.cancel_service = ServiceClient(wiring, group, f"{prefix}/cancel_goal", types.cancel_goal)

    @property
    def server_is_ready(self) -> bool:
        return self.send_goal_service.is_ready and self.get_result_service.is_ready

    @property
    def malformed(self) -> int:
        return sum(one.malformed for one in (self.send_goal_service, self.get_result_service, self.cancel_service))

    def send_goal(self, request: Message, on_result: ResultCallback) -> DdsClientGoal:
        """See the protocol. The status of a rejected goal is ``UNKNOWN``.

        Raises:
            TransportError: the request cannot be handed to DDS in time.
        """
        goal = DdsClientGoal(self, on_result)
        goal.send(request)
        return goal

    def close(self) -> None:
        for service in (self.send_goal_service, self.get_result_service, self.cancel_service):
            service.close()


class DdsClientGoal:
    """Implements :class:`~inference_service.transport.protocol.ClientGoal`."""

    def __init__(self, client: DdsActionClient, on_result: ResultCallback) -> None:
        self.goal_id = uuid.uuid4().bytes
        self._client = client
        self._on_result = on_result
        self._lock = threading.Lock()
        self._accepted = False
        self._cancel_wanted = False

    def send(self, request: Message) -> None:
        message = new_message(self._client.types.send_goal.request, goal_id=self._uuid(), goal=request)
        self._client.send_goal_service.call(message, self._on_response)

    def cancel(self) -> None:
        with self._lock:
            self._cancel_wanted = True
            if not self._accepted:
                return  # sent as soon as the server has accepted
        self._send_cancel()

    def _send_cancel(self) -> None:
        info = new_message("action_msgs/msg/GoalInfo", goal_id=self._uuid())
        message = new_message(self._client.types.cancel_goal.request, goal_info=info)
        try:
            self._client.cancel_service.call(message, lambda _: None)
        except TransportError as error:
            _logger.warning("cannot cancel a goal of %s: %s", self._client.name, error)

    def _on_response(self, response: Message) -> None:
        if not response.accepted:
            self._on_result(GoalStatus.UNKNOWN, None)
            return
        with self._lock:
            self._accepted = True
            cancel = self._cancel_wanted
        message = new_message(self._client.types.get_result.request, goal_id=self._uuid())
        self._client.get_result_service.call(message, self._on_get_result)
        if cancel:
            self._send_cancel()

    def _on_get_result(self, response: Message) -> None:
        try:
            status = GoalStatus(response.status)
        except ValueError:
            status = GoalStatus.UNKNOWN
        self._on_result(status, response.result)

    def _uuid(self) -> Any:
        return new_message("unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(self.goal_id, np.uint8))
