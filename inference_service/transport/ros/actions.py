"""Actions on ``rclpy.action``.

``execute`` runs on a thread per goal: rclpy's own way, a callback that lasts as long as the goal, would hold up its
executor. So rclpy is told that a goal executes when it is accepted, and what it is to execute (a callback that ends
the goal and returns its result) once that is known.
rclpy's client is only used on the executor's thread: an answer that came between its sending a request and
remembering it would be lost.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse

from inference_service.core.errors import InferenceServiceError
from inference_service.transport.protocol import GoalStatus, Message, ResultCallback, ServerGoal
from inference_service.transport.reporting import CANCELS_UNKNOWN_GOALS
from inference_service.transport.ros.groups import Group
from inference_service.transport.ros.types import from_ros, ros_class, to_ros
from inference_service.wire.interfaces import action_types, new_message

KEEP_RESULT_S = 60
Execute = Callable[[ServerGoal], "tuple[GoalStatus, Message]"]
_FINAL = (GoalStatus.SUCCEEDED, GoalStatus.CANCELED, GoalStatus.ABORTED)
_logger = logging.getLogger(__name__)


class RosServerGoal:
    """Implements :class:`~inference_service.transport.protocol.ServerGoal`."""

    def __init__(self, server: RosActionServer, handle: Any, request: Message) -> None:
        self.goal_id = bytes(handle.goal_id.uuid)
        self.request = request
        self.handle = handle
        self.worker: threading.Thread | None = None
        self._server = server
        self._lock = threading.Lock()
        self.ended = False
        self.sent = threading.Event()

    @property
    def cancel_requested(self) -> bool:
        return self.ended or bool(self.handle.is_cancel_requested)

    def publish_feedback(self, feedback: Message) -> None:
        types = self._server.types
        self.handle.publish_feedback(to_ros(feedback, types.feedback, self._server.action.Feedback))

    def end(self, status: GoalStatus, result: Message | None) -> None:
        """Once; what comes after is ignored."""
        with self._lock:
            if self.ended:
                return
            self.ended = True
        types = self._server.types
        message = to_ros(
            new_message(types.result) if result is None else result, types.result, self._server.action.Result
        )

        def finish(handle: Any) -> Any:
            self.sent.set()
            if status is GoalStatus.SUCCEEDED:
                handle.succeed()
            elif status is GoalStatus.CANCELED and handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
            return message

        self._server.finish(self.handle, finish)


class _ThreadedActionServer(ActionServer):  # type: ignore[misc]  # rclpy has no types where it is not installed
    """Starts a goal's thread where rclpy would run a callback on its executor, and tells of what rclpy keeps silent
    about."""

    def __init__(
        self, *arguments: Any, start: Callable[[Any], None], cancels_unknown: Callable[[], None], **options: Any
    ) -> None:
        self._start = start
        self._cancels_unknown = cancels_unknown
        super().__init__(*arguments, **options)

    def notify_execute(self, goal_handle: Any, execute_callback: Any) -> None:
        """The goal is ``EXECUTING``, or ``CANCELING`` already. Called on the executor's thread."""
        if execute_callback is None:
            self._start(goal_handle)
        else:
            super().notify_execute(goal_handle, execute_callback)

    async def _execute_cancel_request(self, request_header_and_message: Any) -> None:
        """rclpy's own, from humble to rolling, which answers a cancel for an unknown goal and tells nobody."""
        goal_id = bytes(request_header_and_message[1].goal_info.goal_id.uuid)
        if any(goal_id) and goal_id not in self._goal_handles:
            self._cancels_unknown()
        await super()._execute_cancel_request(request_header_and_message)


class RosActionServer:
    """Implements :class:`~inference_service.transport.protocol.ActionServer`."""

    def __init__(
        self,
        node: Any,
        name: str,
        action_type: str,
        execute: Execute,
        accept: Callable[[Message], bool] | None,
        max_concurrent: int,
        callback_group: Any,
        on_executor: Callable[[Callable[[], object]], None],
        failed: Callable[[str, Exception], None],
        report: Callable[[str], None],
    ) -> None:
        self.name = name
        self.types = action_types(action_type)
        self.action = ros_class(action_type)
        self._on_executor = on_executor
        self._execute = execute
        self._accept = accept
        self._max_concurrent = max_concurrent
        self._failed = failed
        self._report = report
        self._lock = threading.Lock()
        self._running: list[RosServerGoal] = []
        self._closed = False
        self._server: Any = _ThreadedActionServer(
            node,
            self.action,
            name,
            execute_callback=self._never,
            callback_group=callback_group,
            goal_callback=self._on_goal,
            start=self._start,
            cancels_unknown=lambda: report(CANCELS_UNKNOWN_GOALS.format(name)),
            cancel_callback=lambda _handle: CancelResponse.ACCEPT,
            result_timeout=KEEP_RESULT_S,
        )

    def _never(self, _handle: Any) -> Any:
        raise AssertionError("every goal is ended with a callback of its own")

    def finish(self, handle: Any, callback: Callable[[Any], Any]) -> None:
        """Have rclpy end a goal: ``callback`` sets its final state and returns its result."""

        def notify() -> None:
            if self._server is not None:
                self._server.notify_execute(handle, callback)

        self._on_executor(notify)

    def _on_goal(self, request: Any) -> Any:
        with self._lock:
            full = self._closed or len(self._running) >= self._max_concurrent
        try:
            if not full and (self._accept is None or self._accept(from_ros(request, self.types.goal))):
                return GoalResponse.ACCEPT
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._failed(f"accept callback of {self.name}", error)
        return GoalResponse.REJECT

    def _start(self, handle: Any) -> None:
        goal = RosServerGoal(self, handle, from_ros(handle.request, self.types.goal))
        if not any(goal.goal_id):  # rclpy shows the id only now; it would mean every goal in a cancel request
            self._report(f"{self.name}: a client sends goals without an id: aborted")
            goal.end(GoalStatus.ABORTED, None)
            return
        goal.worker = threading.Thread(target=self._run, args=(goal,), name=f"goal of {self.name}", daemon=True)
        with self._lock:
            self._running.append(goal)
        goal.worker.start()

    def _run(self, goal: RosServerGoal) -> None:
        status, result = GoalStatus.ABORTED, None
        try:
            status, result = self._execute(goal)
            if status not in _FINAL:
                raise ValueError(f"execute returned status {status!r}, wants one of {[one.name for one in _FINAL]}")
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._failed(f"execute callback of {self.name}", error)
            status, result = GoalStatus.ABORTED, None
        with self._lock:
            self._running.remove(goal)
        goal.end(status, result)

    def abort_all(self) -> list[RosServerGoal]:
        """Abort what runs and accept nothing more; the goals whose ends rclpy has yet to tell."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for goal in running:
            goal.end(GoalStatus.ABORTED, None)
        return running

    def close(self) -> None:
        """Idempotent."""
        self.abort_all()
        server, self._server = self._server, None
        if server is not None:
            server.destroy()


class RosActionClient:
    """Implements :class:`~inference_service.transport.protocol.ActionClient`."""

    def __init__(
        self,
        node: Any,
        name: str,
        action_type: str,
        callback_group: Any,
        group: Group,
        on_executor: Callable[[Callable[[], object]], None],
    ) -> None:
        self.name = name
        self.types = action_types(action_type)
        self.action = ros_class(action_type)
        self.group = group
        self.on_executor = on_executor
        self.client = ActionClient(node, self.action, name, callback_group=callback_group)
        self._closed = False

    @property
    def server_is_ready(self) -> bool:
        return not self._closed and bool(self.client.server_is_ready())

    def send_goal(self, request: Message, on_result: ResultCallback) -> RosClientGoal:
        """See the protocol. The status of a rejected goal is ``UNKNOWN``."""
        goal = RosClientGoal(self, on_result)
        goal.send(to_ros(request, self.types.goal, self.action.Goal))
        return goal

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self.client.destroy()


class RosClientGoal:
    """Implements :class:`~inference_service.transport.protocol.ClientGoal`; its state is the executor thread's."""

    def __init__(self, client: RosActionClient, on_result: ResultCallback) -> None:
        self.goal_id = uuid.uuid4().bytes
        self._client = client
        self._on_result = on_result
        self._handle: Any = None
        self._cancel_wanted = False

    def send(self, request: Any) -> None:
        goal_uuid = ros_class("unique_identifier_msgs/msg/UUID")(uuid=list(self.goal_id))

        def send() -> None:
            future = self._client.client.send_goal_async(request, goal_uuid=goal_uuid)
            future.add_done_callback(self._on_response)

        self._client.on_executor(send)

    def cancel(self) -> None:
        self._client.on_executor(self._cancel)

    def _cancel(self) -> None:
        self._cancel_wanted = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def _on_response(self, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._client.group.post(partial(self._on_result, GoalStatus.UNKNOWN, None))
            return
        self._handle = handle
        handle.get_result_async().add_done_callback(self._on_end)
        if self._cancel_wanted:
            handle.cancel_goal_async()

    def _on_end(self, future: Any) -> None:
        response = future.result()
        try:
            status = GoalStatus(response.status)
        except ValueError:
            status = GoalStatus.UNKNOWN
        try:
            result = from_ros(response.result, self._client.types.result)
        except InferenceServiceError as error:
            _logger.warning("result of %s dropped: %s", self._client.name, error)
            status, result = GoalStatus.UNKNOWN, None
        self._client.group.post(partial(self._on_result, status, result))
