"""What an action server owes to clients that do not behave: bounds, rules of cancelling, late questions."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.transport.dds import action_server
from inference_service.transport.dds.action_server import encode_status
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import GoalStatus, ServerGoal
from inference_service.wire.interfaces import deserialize, new_message

GOLDEN = Path(__file__).parents[1] / "golden" / "goal_status_array.cdr"
INFER = "ibrobot_msgs/action/DispatchInfer"
UNKNOWN_GOAL, TERMINATED = 2, 3


class Rig:
    """A server whose goals last while their prompt is ``wait``, and the three services as a client sees them."""

    def __init__(self) -> None:
        self.node, self.client = DdsNode("server"), DdsNode("client")
        self.server = self.node.create_action_server("/infer", INFER, self.execute)
        self._services = {
            "send_goal": self.client.create_client("/infer/_action/send_goal", f"{INFER}_SendGoal"),
            "get_result": self.client.create_client("/infer/_action/get_result", f"{INFER}_GetResult"),
            "cancel_goal": self.client.create_client("/infer/_action/cancel_goal", "action_msgs/srv/CancelGoal"),
        }
        self.until(lambda: all(one.is_ready for one in self._services.values()))

    def execute(self, goal: ServerGoal) -> tuple[GoalStatus, Any]:
        while goal.request.prompt == "wait" and not goal.cancel_requested:
            time.sleep(0.005)
        status = GoalStatus.CANCELED if goal.cancel_requested else GoalStatus.SUCCEEDED
        return status, new_message(f"{INFER}_Result", message=goal.request.prompt)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def ask(self, service: str, request: Any) -> Any:
        answers: list[Any] = []
        done = threading.Event()
        self._services[service].call(request, lambda answer: (answers.append(answer), done.set()))
        assert done.wait(10)
        return answers[0]

    def send(self, goal_id: bytes, prompt: str = "x") -> bool:
        goal = new_message(f"{INFER}_Goal", prompt=prompt)
        return bool(
            self.ask("send_goal", new_message(f"{INFER}_SendGoal_Request", goal_id=_uuid(goal_id), goal=goal)).accepted
        )

    def result(self, goal_id: bytes) -> Any:
        return self.ask("get_result", new_message(f"{INFER}_GetResult_Request", goal_id=_uuid(goal_id)))

    def cancel(self, goal_id: bytes = bytes(16), stamp_ns: int = 0) -> tuple[int, list[bytes]]:
        stamp = new_message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        info = new_message("action_msgs/msg/GoalInfo", goal_id=_uuid(goal_id), stamp=stamp)
        answer = self.ask("cancel_goal", new_message("action_msgs/srv/CancelGoal_Request", goal_info=info))
        return answer.return_code, [bytes(one.goal_id.uuid) for one in answer.goals_canceling]

    def close(self) -> None:
        self.client.close()
        self.node.close()


def _uuid(goal_id: bytes) -> Any:
    return new_message("unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(goal_id, np.uint8))


def _id() -> bytes:
    return uuid.uuid4().bytes


@pytest.fixture
def rig(domain_id: int) -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_the_status_bytes_are_those_of_a_real_ros_2() -> None:
    golden = GOLDEN.read_bytes()
    message = deserialize(golden, "action_msgs/msg/GoalStatusArray")
    goals = []
    for entry in message.status_list:
        stamp = entry.goal_info.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        goals.append((bytes(entry.goal_info.goal_id.uuid), stamp_ns, GoalStatus(entry.status)))
    encoded = encode_status(goals)
    assert encoded[: len(golden)] == golden
    assert not any(encoded[len(golden) :]), "more than padding after the last goal"
    assert goals


def test_the_status_bytes_of_several_goals_are_those_of_a_real_ros_2() -> None:
    """Three goals, by rclpy's ``serialize_message``: nothing pads a goal's end, and all its stamps stay aligned."""
    golden = bytes.fromhex(
        "00010000" "03000000"
        "0102030405060708090a0b0c0d0e0f10" "06000000" "07000000" "03"
        "02030405060708090a0b0c0d0e0f1011" "000000" "07000000" "07000000" "04"
        "030405060708090a0b0c0d0e0f101112" "000000" "08000000" "07000000" "05"
    )  # fmt: skip
    goals = [(bytes(range(i, i + 16)), (5 + i) * 10**9 + 7, GoalStatus(i + 2)) for i in (1, 2, 3)]
    encoded = encode_status(goals)
    assert encoded[: len(golden)] == golden
    assert not any(encoded[len(golden) :]), "more than padding after the last goal"
    told = deserialize(encoded, "action_msgs/msg/GoalStatusArray").status_list
    assert [(bytes(e.goal_info.goal_id.uuid), e.goal_info.stamp.sec, e.status) for e in told] == [
        (goal_id, stamp_ns // 10**9, status) for goal_id, stamp_ns, status in goals
    ]


def test_a_goal_id_is_accepted_once_even_after_its_end(rig: Rig) -> None:
    goal_id = _id()
    assert rig.send(goal_id)
    assert rig.result(goal_id).status == GoalStatus.SUCCEEDED
    assert not rig.send(goal_id)


def test_a_late_question_gets_the_kept_result_and_an_unknown_goal_none(rig: Rig) -> None:
    goal_id = _id()
    rig.send(goal_id, "kept")
    assert rig.result(goal_id).result.message == "kept"
    assert rig.result(goal_id).result.message == "kept"
    unknown = rig.result(_id())
    assert (unknown.status, unknown.result.message) == (GoalStatus.UNKNOWN, "")


def test_everyone_who_waits_for_a_goal_gets_its_result(rig: Rig) -> None:
    goal_id, answers = _id(), []
    rig.send(goal_id, "wait")
    request = new_message(f"{INFER}_GetResult_Request", goal_id=_uuid(goal_id))
    for _ in range(3):
        rig._services["get_result"].call(request, answers.append)
    time.sleep(0.1)
    assert answers == []
    assert rig.cancel(goal_id) == (0, [goal_id])
    rig.until(lambda: len(answers) == 3)
    assert {answer.status for answer in answers} == {GoalStatus.CANCELED}


def test_cancel_follows_the_rules_of_its_message(rig: Rig) -> None:
    first, second, third = _id(), _id(), _id()
    for goal_id in (first, second, third):
        assert rig.send(goal_id, "wait")
        time.sleep(0.002)
    assert rig.cancel(_id()) == (UNKNOWN_GOAL, [])
    stamp_of_second = rig.server._goals[second].stamp_ns
    assert rig.cancel(stamp_ns=stamp_of_second) == (0, [first, second])
    assert rig.result(first).status == GoalStatus.CANCELED
    assert rig.cancel(first) == (TERMINATED, [])
    code, canceling = rig.cancel()
    assert code == 0
    assert third in canceling
    for goal_id in (second, third):
        assert rig.result(goal_id).status == GoalStatus.CANCELED
    assert rig.cancel() == (0, [])


def test_results_are_kept_for_a_while_and_up_to_a_number(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_server, "KEEP_RESULTS", 2)
    ids = [_id() for _ in range(4)]
    for goal_id in ids:
        rig.send(goal_id)
        rig.result(goal_id)
    assert list(rig.server._goals) == ids[2:]
    monkeypatch.setattr(action_server, "KEEP_RESULT_S", 0.0)
    rig.server._sweep()
    assert list(rig.server._goals) == []
    assert rig.result(ids[0]).status == GoalStatus.UNKNOWN


def test_a_running_goal_is_never_swept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_server, "KEEP_RESULTS", 0)
    monkeypatch.setattr(action_server, "KEEP_RESULT_S", 0.0)
    goal_id = _id()
    rig.send(goal_id, "wait")
    rig.server._sweep()
    monkeypatch.undo()
    rig.cancel(goal_id)
    assert rig.result(goal_id).status == GoalStatus.CANCELED


def test_an_aborted_goal_stays_aborted_when_its_execute_returns_later(rig: Rig) -> None:
    goal_id = _id()
    rig.send(goal_id, "wait")
    for worker in rig.server.abort_all():
        worker.join(10)
    assert rig.server._goals[goal_id].status == GoalStatus.ABORTED
    assert not rig.send(_id()), "a goal was accepted after the end"


@pytest.mark.parametrize("answer", [(GoalStatus.EXECUTING, None), None])
def test_an_execute_that_returns_nonsense_aborts_its_goal(domain_id: int, answer: Any) -> None:
    rig = Rig.__new__(Rig)
    rig.execute = lambda _goal: answer  # type: ignore[method-assign]
    rig.__init__()  # type: ignore[misc]
    try:
        goal_id = _id()
        rig.send(goal_id)
        assert rig.result(goal_id).status == GoalStatus.ABORTED
        assert rig.node.errors == 1
    finally:
        rig.close()


def test_a_goal_without_an_id_is_rejected_and_a_cancel_for_an_unknown_one_answered(rig: Rig) -> None:
    assert not rig.send(bytes(16))
    assert rig.cancel(_id()) == (2, [])
    assert rig.send(_id())


def test_closing_while_a_cancel_request_is_under_way_is_no_error(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """As at SIGINT, when the dispatcher cancels its goal while the device node already leaves."""
    goal_id = _id()
    rig.send(goal_id, "wait")
    info = new_message("action_msgs/msg/GoalInfo", goal_id=_uuid(goal_id))
    request = new_message("action_msgs/srv/CancelGoal_Request", goal_info=info)
    arrived = threading.Event()
    handle = rig.server._cancel._on_request
    rig.server._cancel._on_request = lambda *it: (arrived.set(), handle(*it))
    # Nothing else that wants the lock may hold the server's thread: neither the goal just taken nor the sweeper.
    rig.server._sweeper.cancel()
    rig.until(lambda: rig.server._goals[goal_id].worker is not None)
    time.sleep(0.2)
    with rig.server._lock:
        rig._services["cancel_goal"].call(request, lambda _: None)
        assert arrived.wait(10)
        rig.server.close()
    rig.node.close()
    assert rig.node.errors == 0
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_feedback_of_a_goal_that_outlived_its_server_is_dropped(domain_id: int) -> None:
    rig = Rig()
    started, closed, outcome = threading.Event(), threading.Event(), []

    def execute(goal: ServerGoal) -> tuple[GoalStatus, Any]:
        started.set()
        closed.wait(10)
        goal.publish_feedback(new_message(f"{INFER}_Feedback"))
        outcome.append("survived")
        return GoalStatus.SUCCEEDED, new_message(f"{INFER}_Result")

    rig.server._execute = execute
    rig.send(_id())
    assert started.wait(10)  # a goal is accepted before it starts
    rig.server.close()
    closed.set()
    rig.until(lambda: outcome)
    rig.close()
    assert rig.node.errors == 0
