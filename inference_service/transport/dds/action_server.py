"""The server of a ROS 2 action: three services and two topics under ``<name>/_action``.

A goal lives in a table from its acceptance until a minute after its end, so that a client which asks late
still gets the result. Layout and rules: https://design.ros2.org/articles/actions.html; ``rcl_action``.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference_service.core.errors import TransportError
from inference_service.transport.dds.executor import Group
from inference_service.transport.dds.graph import Wiring
from inference_service.transport.dds.services import RequestId, ServiceServer
from inference_service.transport.dds.topics import DdsPublisher
from inference_service.transport.protocol import GoalStatus, Message, QoS, ServerGoal
from inference_service.transport.reporting import CANCELS_UNKNOWN_GOALS, ErrorLog
from inference_service.wire.interfaces import action_types, new_message

Execute = Callable[[ServerGoal], "tuple[GoalStatus, Message]"]

KEEP_RESULT_S = 60.0
KEEP_RESULTS = 32
_MAX_WAITING = 16  # get_result requests that one goal remembers
_SWEEP_S = 5.0
_ACTIVE = (GoalStatus.ACCEPTED, GoalStatus.EXECUTING, GoalStatus.CANCELING)
_FINAL = (GoalStatus.SUCCEEDED, GoalStatus.CANCELED, GoalStatus.ABORTED)
# uuid, seconds, nanoseconds, status. CDR aligns numbers and no structs: the second entry's uuid follows the first
# status at once, and from then on the seconds need padding.
_STATUS_ENTRIES = struct.Struct("<16siIb"), struct.Struct("<16s3xiIb")
# action_msgs/srv/CancelGoal
_CANCEL_NONE, _CANCEL_UNKNOWN_GOAL, _CANCEL_TERMINATED = 0, 2, 3


@dataclass(eq=False)
class _Goal:
    """One goal; the handle that ``execute`` gets (:class:`~inference_service.transport.protocol.ServerGoal`)."""

    goal_id: bytes
    request: Message
    stamp_ns: int
    server: DdsActionServer
    status: GoalStatus = GoalStatus.ACCEPTED
    result: Message = None
    ended_at: float = 0.0
    waiting: list[RequestId] = field(default_factory=list)
    worker: threading.Thread | None = None

    @property
    def cancel_requested(self) -> bool:
        return self.status == GoalStatus.CANCELING or self.status in _FINAL

    def publish_feedback(self, feedback: Message) -> None:
        if self.status not in _FINAL:
            self.server.publish_feedback(self.goal_id, feedback)


class DdsActionServer:
    """Implements :class:`~inference_service.transport.protocol.ActionServer`.

    ``group`` runs the protocol and must not run anything slow besides; ``execute`` runs on a thread of its own
    for every goal. A goal beyond ``max_concurrent`` running ones is rejected.
    """

    def __init__(
        self,
        wiring: Wiring,
        group: Group,
        name: str,
        action_type: str,
        execute: Execute,
        accept: Callable[[Message], bool] | None,
        max_concurrent: int,
        errors: ErrorLog,
        now_ns: Callable[[], int],
        report: Callable[[str], None],
    ) -> None:
        """``report`` is told of clients that ask for what cannot be meant."""
        self.name = name
        self._types = types = action_types(action_type)
        self._execute = execute
        self._accept = accept
        self._max_concurrent = max_concurrent
        self._errors = errors
        self._now_ns = now_ns
        self._report = report
        self._lock = threading.RLock()
        self._goals: OrderedDict[bytes, _Goal] = OrderedDict()
        self._closed = False
        self._left = False
        prefix = f"{name}/_action"
        self._feedback = DdsPublisher(wiring, f"{prefix}/feedback", types.feedback_message, QoS())
        latched = QoS(depth=1, durability="transient_local")
        self._status = DdsPublisher(wiring, f"{prefix}/status", types.status, latched)
        self._cancel = ServiceServer(wiring, group, f"{prefix}/cancel_goal", types.cancel_goal, self._on_cancel)
        self._get_result = ServiceServer(wiring, group, f"{prefix}/get_result", types.get_result, self._on_get_result)
        self._send_goal = ServiceServer(wiring, group, f"{prefix}/send_goal", types.send_goal, self._on_send_goal)
        self._sweeper = group.add_timer(_SWEEP_S, self._sweep)

    @property
    def malformed(self) -> int:
        return sum(service.malformed for service in (self._send_goal, self._get_result, self._cancel))

    # -- requests, on the group's thread ---------------------------------------------------------------------------

    def _on_send_goal(self, request: RequestId, message: Message) -> None:
        goal = self._admit(bytes(message.goal_id.uuid), message.goal)
        stamp = _time(goal.stamp_ns if goal else self._now_ns())
        response = new_message(self._types.send_goal.response, accepted=goal is not None, stamp=stamp)
        try:
            self._send_goal.reply(request, response)
        except TransportError:
            if goal is not None:
                self._finish(goal, GoalStatus.ABORTED, None)
            raise
        if goal is not None:
            self._publish_status()
            self._start(goal)

    def _start(self, goal: _Goal) -> None:
        with self._lock:
            if goal.status not in _FINAL:  # not aborted since it was accepted
                goal.worker = threading.Thread(target=self._run, args=(goal,), name=f"goal of {self.name}", daemon=True)
                goal.worker.start()

    def _admit(self, goal_id: bytes, request: Message) -> _Goal | None:
        """The goal, in the table, or None when it is rejected."""
        if not any(goal_id):  # it would mean every goal in a cancel request
            self._report(f"{self.name}: a client sends goals without an id: refused")
            return None
        if goal_id in self._goals or self._running() >= self._max_concurrent:
            return None
        try:
            if self._accept is not None and not self._accept(request):
                return None
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._errors.report(f"accept callback of {self.name}", error)
            return None
        goal = _Goal(goal_id, request, self._now_ns(), self)
        with self._lock:
            if self._closed:
                return None
            self._goals[goal_id] = goal
        return goal

    def _running(self) -> int:
        with self._lock:
            return sum(goal.status in _ACTIVE for goal in self._goals.values())

    def _on_get_result(self, request: RequestId, message: Message) -> None:
        with self._lock:
            goal = self._goals.get(bytes(message.goal_id.uuid))
            if goal is not None and goal.status not in _FINAL:
                goal.waiting = [*goal.waiting, request][-_MAX_WAITING:]
                return
        self._reply_result(request, goal)

    def _on_cancel(self, request: RequestId, message: Message) -> None:
        goal_id = bytes(message.goal_info.goal_id.uuid)
        stamp_ns = message.goal_info.stamp.sec * 10**9 + message.goal_info.stamp.nanosec
        with self._lock:
            wanted = [goal for goal in self._goals.values() if _is_meant(goal, goal_id, stamp_ns)]
            canceling = [goal for goal in wanted if goal.status in _ACTIVE]
            for goal in canceling:
                goal.status = GoalStatus.CANCELING
        code = _CANCEL_NONE
        if any(goal_id) and not canceling:
            code = _CANCEL_TERMINATED if goal_id in self._goals else _CANCEL_UNKNOWN_GOAL
        if code == _CANCEL_UNKNOWN_GOAL:
            self._report(CANCELS_UNKNOWN_GOALS.format(self.name))
        infos = [self._info(goal) for goal in canceling]
        self._cancel.reply(
            request, new_message(self._types.cancel_goal.response, return_code=code, goals_canceling=infos)
        )
        if canceling:
            self._publish_status()

    def _sweep(self) -> None:
        with self._lock:
            before = len(self._goals)
            self._forget()
            changed = len(self._goals) < before
        if changed:
            self._publish_status()

    def _forget(self) -> None:
        """Drop ended goals that are too old or too many; under the lock."""
        ended = [goal for goal in self._goals.values() if goal.status in _FINAL]
        surplus = len(ended) - KEEP_RESULTS
        for index, goal in enumerate(ended):
            if index < surplus or time.monotonic() - goal.ended_at > KEEP_RESULT_S:
                del self._goals[goal.goal_id]

    # -- execution, on the goal's thread ---------------------------------------------------------------------------

    def _run(self, goal: _Goal) -> None:
        with self._lock:
            if goal.status == GoalStatus.ACCEPTED:
                goal.status = GoalStatus.EXECUTING
        self._publish_status()
        status, result = GoalStatus.ABORTED, None
        try:
            status, result = self._execute(goal)
            if status not in _FINAL:
                raise ValueError(f"execute returned status {status!r}, wants one of {[one.name for one in _FINAL]}")
        except Exception as error:  # noqa: BLE001  # the user's code; reported with its traceback
            self._errors.report(f"execute callback of {self.name}", error)
            status, result = GoalStatus.ABORTED, None
        self._finish(goal, status, result)

    def _finish(self, goal: _Goal, status: GoalStatus, result: Message) -> None:
        """End the goal, unless it has ended, and answer who waits for it."""
        with self._lock:
            if goal.status in _FINAL:
                return
            goal.status, goal.result, goal.ended_at = status, result, time.monotonic()
            waiting, goal.waiting = goal.waiting, []
            self._forget()
        try:
            for request in waiting:
                self._reply_result(request, goal)
            self._publish_status()
        except TransportError as error:
            self._errors.report(f"result of {self.name}", error)

    def publish_feedback(self, goal_id: bytes, feedback: Message) -> None:
        """Nothing once the server has left the graph."""
        message = new_message(self._types.feedback_message, goal_id=_uuid(goal_id), feedback=feedback)
        with self._lock:
            if not self._left:
                self._feedback.publish(message)

    # -- messages --------------------------------------------------------------------------------------------------

    def _reply_result(self, request: RequestId, goal: _Goal | None) -> None:
        status = GoalStatus.UNKNOWN if goal is None else goal.status
        result = None if goal is None else goal.result
        if result is None:
            result = new_message(self._types.result)
        self._get_result.reply(request, new_message(self._types.get_result.response, status=int(status), result=result))

    def _publish_status(self) -> None:
        with self._lock:
            if self._left:
                return
            goals = [(goal.goal_id, goal.stamp_ns, goal.status) for goal in self._goals.values()]
            self._status.publish_serialized(encode_status(goals))

    def _info(self, goal: _Goal) -> Any:
        return new_message("action_msgs/msg/GoalInfo", goal_id=_uuid(goal.goal_id), stamp=_time(goal.stamp_ns))

    def abort_all(self) -> list[threading.Thread]:
        """Abort what runs and accept nothing more; the workers that have yet to notice. ``execute`` sees it as
        ``cancel_requested``."""
        with self._lock:
            self._closed = True
            running = [goal for goal in self._goals.values() if goal.status in _ACTIVE]
        for goal in running:
            self._finish(goal, GoalStatus.ABORTED, None)
        return [goal.worker for goal in running if goal.worker is not None]

    def close(self) -> None:
        """Abort what runs, leave the graph. Idempotent."""
        self.abort_all()
        self._sweeper.cancel()
        with self._lock:  # a request may be under way on the group's thread
            self._left = True
        for service in (self._send_goal, self._get_result, self._cancel):
            service.close()
        for publisher in (self._feedback, self._status):
            publisher.close()


def encode_status(goals: list[tuple[bytes, int, GoalStatus]]) -> bytes:
    """CDR of ``action_msgs/msg/GoalStatusArray`` from (goal id, stamp in ns, status) of each goal.

    By hand: the whole table is sent three times a goal, which through message objects took longer than a goal.
    """
    entries = [
        _STATUS_ENTRIES[index > 0].pack(goal_id, *divmod(stamp_ns, 10**9), status)
        for index, (goal_id, stamp_ns, status) in enumerate(goals)
    ]
    body = b"".join(entries)
    return b"\0\1\0\0" + struct.pack("<I", len(entries)) + body + bytes(-len(body) % 4)


def _is_meant(goal: _Goal, goal_id: bytes, stamp_ns: int) -> bool:
    """Rules of ``action_msgs/srv/CancelGoal``: an id, or all accepted until a time, or (all zero) every goal."""
    if goal.goal_id == goal_id:
        return True
    if stamp_ns:
        return goal.stamp_ns <= stamp_ns
    return not any(goal_id)


def _uuid(goal_id: bytes) -> Any:
    return new_message("unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(goal_id, np.uint8))


def _time(stamp_ns: int) -> Any:
    return new_message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
