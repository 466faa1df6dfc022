"""``rclpy.action.server``, with the states and rules of ``rcl_action``."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from enum import Enum, IntEnum

from inference_service.transport.dds.topics import DdsPublisher
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import action_types
from rclpy._rclpy_pybind11 import Entity, RCLError
from rclpy.entities import StrictServer
from rclpy.interfaces import check_is_action, from_wire, message_class, to_wire
from rclpy.task import Future, await_or_execute

_logger = logging.getLogger("rclpy")
UNKNOWN, ACCEPTED, EXECUTING, CANCELING, SUCCEEDED, CANCELED, ABORTED = range(7)
_ACTIVE = (ACCEPTED, EXECUTING, CANCELING)


class GoalResponse(Enum):
    REJECT = 1
    ACCEPT = 2


class CancelResponse(Enum):
    REJECT = 1
    ACCEPT = 2


class GoalEvent(IntEnum):
    EXECUTE = 0
    CANCEL_GOAL = 1
    SUCCEED = 2
    ABORT = 3
    CANCELED = 4


_TRANSITIONS = {  # rcl_action/src/rcl_action/goal_state_machine.c
    (ACCEPTED, GoalEvent.EXECUTE): EXECUTING,
    (ACCEPTED, GoalEvent.CANCEL_GOAL): CANCELING,
    (EXECUTING, GoalEvent.CANCEL_GOAL): CANCELING,
    (EXECUTING, GoalEvent.SUCCEED): SUCCEEDED,
    (EXECUTING, GoalEvent.ABORT): ABORTED,
    (CANCELING, GoalEvent.SUCCEED): SUCCEEDED,
    (CANCELING, GoalEvent.ABORT): ABORTED,
    (CANCELING, GoalEvent.CANCELED): CANCELED,
}


class ServerGoalHandle:
    def __init__(self, server, info, request):
        self._server, self.info, self._request = server, info, request
        self._lock = threading.Lock()
        self._state = ACCEPTED
        self.destroyed = False
        self.ended_at = 0.0

    @property
    def request(self):
        return self._request

    @property
    def goal_id(self):
        return self.info.goal_id

    @property
    def status(self):
        return UNKNOWN if self.destroyed else self._state

    @property
    def is_active(self):
        return self.status in _ACTIVE

    @property
    def is_cancel_requested(self):
        return self.status == CANCELING

    def _update_state(self, event):
        with self._lock:
            if self.destroyed:
                return
            after = _TRANSITIONS.get((self._state, event))
            if after is None:
                raise RCLError(
                    f"Failed to update goal state: goal_handle attempted invalid transition from state {self._state} "
                    f"with event {event.name}"
                )
            self._state = after
            if after not in _ACTIVE:
                self.ended_at = time.monotonic()
        self._server.publish_status()

    def execute(self, execute_callback=None):
        if not self.is_cancel_requested:
            self._update_state(GoalEvent.EXECUTE)
        self._server.notify_execute(self, execute_callback)

    def publish_feedback(self, feedback):
        if not isinstance(feedback, self._server.action_type.Feedback):
            raise TypeError
        with self._lock:
            if self.destroyed:
                return
            message = self._server.action_type.Impl.FeedbackMessage(goal_id=self.goal_id, feedback=feedback)
            with self._server.handle:
                self._server.feedback.publish(to_wire(message))

    def succeed(self):
        self._update_state(GoalEvent.SUCCEED)

    def abort(self):
        self._update_state(GoalEvent.ABORT)

    def canceled(self):
        self._update_state(GoalEvent.CANCELED)

    def destroy(self):
        with self._lock:
            self.destroyed = True


class _Closing:
    def __init__(self, *closables):
        self._closables = closables

    def close(self):
        for closable in self._closables:
            closable.close()


class ActionServer:
    def __init__(
        self,
        node,
        action_type,
        action_name,
        execute_callback,
        *,
        callback_group=None,
        goal_callback=lambda _request: GoalResponse.ACCEPT,
        handle_accepted_callback=lambda handle: handle.execute(),
        cancel_callback=lambda _handle: CancelResponse.REJECT,
        result_timeout=900,
    ):
        check_is_action(action_type)
        if not callable(execute_callback):
            raise TypeError("Failed to register goal execution callback: not callable")
        self.action_type, self._node = action_type, node
        self._types = types = action_types(action_type.TYPE)
        self._execute_callback, self._goal_callback = execute_callback, goal_callback
        self._handle_accepted_callback, self._cancel_callback = handle_accepted_callback, cancel_callback
        self._result_timeout = result_timeout
        self._goal_handles, self._results = {}, {}
        with node.handle:
            prefix, wiring = f"{node._resolved(action_name)}/_action", node.handle.wiring
            latched = QoS(depth=1, durability="transient_local")
            self.feedback = DdsPublisher(wiring, f"{prefix}/feedback", types.feedback_message, QoS())
            self._status = DdsPublisher(wiring, f"{prefix}/status", types.status, latched)
            self._send_goal = self._service("send_goal", prefix, self._execute_goal_request)
            self._get_result = self._service("get_result", prefix, self._execute_get_result_request)
            self._cancel = self._service("cancel_goal", prefix, self._execute_cancel_request)
            parts = (self._send_goal, self._get_result, self._cancel, self.feedback, self._status)
            self.handle = Entity(node.handle, _Closing(*parts))
        node.add_waitable(self)

    def _service(self, part, prefix, handle):
        types = getattr(self._types, part)

        def on_request(header, request):
            self._node.executor.create_task(handle, (header, from_wire(request, types.request)))

        return StrictServer(self._node.handle.wiring, self._node.handle, f"{prefix}/{part}", types, on_request)

    def _reply(self, service, header, response):
        with self.handle:
            service.reply(header, to_wire(response))

    async def _execute_goal_request(self, request_header_and_message):
        header, request = request_header_and_message
        goal_id, accepted = bytes(request.goal_id.uuid), False
        stamp = message_class("builtin_interfaces/msg/Time")()
        if goal_id not in self._goal_handles:
            answer = await await_or_execute(self._goal_callback, request.goal)
            if not isinstance(answer, GoalResponse):
                _logger.warning("Goal request callback did not return a GoalResponse type. Rejecting goal.")
            accepted = answer is GoalResponse.ACCEPT
        if accepted:
            now = self._node.get_clock().now().nanoseconds
            stamp.sec, stamp.nanosec = divmod(now, 10**9)
            info = message_class("action_msgs/msg/GoalInfo")(goal_id=request.goal_id, stamp=stamp)
            handle = self._goal_handles[goal_id] = ServerGoalHandle(self, info, request.goal)
            self._results[goal_id] = Future(executor=self._node.executor)
        response = self.action_type.Impl.SendGoalService.Response(accepted=accepted, stamp=stamp)
        self._reply(self._send_goal, header, response)
        if accepted:
            await await_or_execute(self._handle_accepted_callback, handle)

    def notify_execute(self, goal_handle, execute_callback):
        callback = self._execute_callback if execute_callback is None else execute_callback
        self._node.executor.create_task(self._execute_goal, callback, goal_handle)

    async def _execute_goal(self, execute_callback, goal_handle):
        try:
            result = await await_or_execute(execute_callback, goal_handle)
        except Exception as error:  # noqa: BLE001  # as rclpy does
            result = self.action_type.Result()
            _logger.error("Error raised in execute callback: %s", error)
            traceback.print_exc()
        if goal_handle.is_active:
            _logger.warning("Goal state not set, assuming aborted.")
            goal_handle.abort()
        response = self.action_type.Impl.GetResultService.Response(status=goal_handle.status, result=result)
        self._results[bytes(goal_handle.goal_id.uuid)].set_result(response)

    async def _execute_get_result_request(self, request_header_and_message):
        header, request = request_header_and_message
        future = self._results.get(bytes(request.goal_id.uuid))
        if future is None:
            self._reply(self._get_result, header, self.action_type.Impl.GetResultService.Response())
            return
        future.add_done_callback(lambda done: self._reply(self._get_result, header, done.result()))

    async def _execute_cancel_request(self, request_header_and_message):
        header, request = request_header_and_message
        wanted = request.goal_info
        goal_id, stamp = bytes(wanted.goal_id.uuid), (wanted.stamp.sec, wanted.stamp.nanosec)
        cancelable = [one for one in self._goal_handles.values() if one.status in (ACCEPTED, EXECUTING)]
        meant = [one for one in cancelable if _is_meant(one.info, goal_id, stamp)]
        response = self.action_type.Impl.CancelGoalService.Response()
        if any(goal_id) and not meant:
            response.return_code = 3 if goal_id in self._goal_handles else 2
        canceling = []
        for handle in meant:
            answer = await await_or_execute(self._cancel_callback, handle)
            if answer is CancelResponse.ACCEPT:
                try:
                    handle._update_state(GoalEvent.CANCEL_GOAL)
                except RCLError:  # ended meanwhile, or canceling already
                    continue
                canceling.append(handle.info)
        response.goals_canceling = canceling
        self._reply(self._cancel, header, response)

    def publish_status(self):
        entries = [
            message_class("action_msgs/msg/GoalStatus")(goal_info=one.info, status=one.status)
            for one in self._goal_handles.values()
        ]
        with self.handle:
            self._status.publish(to_wire(message_class("action_msgs/msg/GoalStatusArray")(status_list=entries)))

    def expire(self):
        """For the executor: forget results that are too old."""
        limit = time.monotonic() - self._result_timeout
        for goal_id, handle in list(self._goal_handles.items()):
            if not handle.is_active and handle.ended_at < limit:
                handle.destroy()
                del self._goal_handles[goal_id], self._results[goal_id]

    def destroy(self):
        for handle in self._goal_handles.values():
            handle.destroy()
        self.handle.destroy_when_not_in_use()
        self._node.remove_waitable(self)


def _is_meant(info, goal_id, stamp):
    if bytes(info.goal_id.uuid) == goal_id:
        return True
    if stamp > (0, 0):
        return (info.stamp.sec, info.stamp.nanosec) <= stamp
    return not any(goal_id)
