"""The device's node on the real wire, against robots and engines that misbehave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from inference_service.core.errors import RequestRejected
from inference_service.nodes.engine_node import EngineNode, EngineParameters
from inference_service.nodes.policy_node import STAGES, PolicyNode, PolicyParameters, check_goal
from inference_service.nodes.ros_arguments import ParameterError
from inference_service.nodes.runtime import build_parameters
from inference_service.transport import create_node
from inference_service.transport.protocol import GoalStatus
from inference_service.wire.envelope import EngineState, Request
from inference_service.wire.interfaces import new_message
from inference_service.wire.variants import from_variants, to_variants
from tests.nodes.harness import POLICY, ROBOT, Dispatching, StandInEngine, StandInRobot, wait_until

Make = Callable[..., Any]


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    """What a test opens is closed after it, newest first."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


@pytest.fixture
def robot(opened: list[Any]) -> StandInRobot:
    robot = StandInRobot()
    opened.append(robot.node)
    return robot


@pytest.fixture
def dispatching(opened: list[Any]) -> Dispatching:
    dispatching = Dispatching()
    opened.append(dispatching.node)
    return dispatching


@pytest.fixture
def device(opened: list[Any]) -> Make:
    def make(mode: str = "distributed", timeout: float = 5.0) -> PolicyNode:
        node = create_node("act_inference_node")
        opened.append(node)
        parameters = PolicyParameters(
            checkpoint=str(POLICY),
            robot_config_path=str(ROBOT),
            execution_mode=mode,
            device="onnx",
            request_timeout=timeout,
        )
        opened.append(PolicyNode(node, parameters))
        return opened[-1]

    return make


@pytest.fixture
def engine(opened: list[Any]) -> Make:
    def make() -> EngineNode:
        node = create_node("pure_inference")
        opened.append(node)
        opened.append(EngineNode(node, EngineParameters(policy_path=str(POLICY), device="onnx")))
        return opened[-1]

    return make


@pytest.fixture
def stand_in(opened: list[Any]) -> Make:
    def make(answer: Callable[[StandInEngine, Request], None], **options: Any) -> StandInEngine:
        engine = StandInEngine(answer, **options)
        opened.append(engine.node)
        return engine

    return make


def promptly(engine: StandInEngine, request: Request) -> None:
    engine.reply(request)


def never(engine: StandInEngine, request: Request) -> None:
    pass


def chunk_of(result: Any) -> np.ndarray:
    return np.asarray(from_variants(result.action_chunk)["action"])


def test_a_goal_cancelled_while_it_is_inferred_ends_canceled_without_a_chunk(
    robot: StandInRobot, device: Make, stand_in: Make, dispatching: Dispatching
) -> None:
    """The engine's answer comes after the cancel was accepted: the chunk goes to nobody. The next goal has its own."""
    held: list[Request] = []
    device()
    engine = stand_in(promptly)
    dispatching.infer_until_ok()
    chunks: list[Any] = []
    dispatching.node.create_subscription("/actions/act", "ibrobot_msgs/msg/VariantsList", chunks.append)
    engine.answer = lambda _engine, request: held.append(request)
    ends: list[tuple[GoalStatus, Any]] = []
    goal = dispatching.send(lambda status, result: ends.append((status, result)), "given up")
    assert wait_until(lambda: held), "no request"
    accepted = dispatching.canceling(goal)
    goal.cancel()
    assert wait_until(accepted), "the cancel was not accepted"
    engine.reply(held[0])
    assert wait_until(lambda: ends), "no end"
    status, result = ends[0]
    assert (status, result.success, result.chunk_size) == (GoalStatus.CANCELED, False, 0)
    assert "action" not in from_variants(result.action_chunk)
    assert "cancelled" in result.message
    engine.answer = promptly
    dispatching.infer_until_ok()
    assert wait_until(lambda: chunks)
    assert [from_variants(chunk)["action.request_id"] for chunk in chunks] == [["test"]]


def test_both_modes_give_the_same_chunk(
    robot: StandInRobot, device: Make, engine: Make, dispatching: Dispatching, opened: list[Any]
) -> None:
    chunks: list[Any] = []
    timings: list[dict[str, float]] = []

    def on_chunk(message: Any) -> None:
        entries = from_variants(message)
        timings.append(dict(zip(entries["timing.stages"], entries["timing.ms"], strict=True)))

    dispatching.node.create_subscription("/actions/act", "ibrobot_msgs/msg/VariantsList", on_chunk)
    for mode in ("distributed", "monolithic"):
        server = engine() if mode == "distributed" else None
        node = device(mode)
        result = dispatching.infer_until_ok()
        chunks.append(chunk_of(result))
        assert result.chunk_size == 50 and result.inference_latency_ms > 0
        for thing in (node, opened[opened.index(node) - 1], server):
            if thing is not None:
                thing.close()
    assert chunks[0].shape == (50, 6) and chunks[0].dtype == np.float32
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert wait_until(lambda: len(timings) == 2)
    assert set(timings[0]) == set(STAGES)
    assert timings[0]["wire"] > 0 and timings[1]["wire"] == 0
    assert timings[0]["inference"] > 0 and timings[0]["total"] >= timings[0]["inference"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda r: r.muted.add("wrist"), "missing_observation: observation.images.wrist (/camera/wrist/image_raw)"),
        (lambda r: r.frozen.add("top"), "stale_observation: observation.images.top (/camera/top/image_raw)"),
        (lambda r: r.names.remove("4"), "missing_observation: /joint_states: joint '4'"),
        (lambda r: r.joints.__setitem__(2, np.nan), "invalid_observation: /joint_states: position.3 is not finite"),
        (lambda r: setattr(r, "size", (480, 480)), "invalid_observation: observation.images.top"),
    ],
)
def test_a_fault_of_the_robot_is_named_and_ends_with_it(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make, fault: Any, says: str
) -> None:
    """Fault: one stream at fault. Expected: an aborted goal that names it. Invariant: the engine is not asked."""
    engine = stand_in(promptly)
    fault(robot)
    node = device()
    refused: list[str] = []

    def refused_for_it() -> bool:
        status, result = dispatching.infer()
        refused.append(result.message)
        assert result.success == (status is GoalStatus.SUCCEEDED)
        return says in result.message

    assert wait_until(refused_for_it), refused[-1]
    asked = len(engine.requests)
    assert says in dispatching.infer()[1].message
    assert len(engine.requests) == asked
    fresh = "(/camera/" not in says
    assert node._collect()[0].ready == fresh, "ready is who receives every stream"
    robot.muted.clear()
    robot.frozen.clear()
    robot.names, robot.size = ["1", "2", "3", "4", "5", "6"], (480, 640)
    robot.joints[2] = 0.9
    dispatching.infer_until_ok()
    assert wait_until(lambda: node._collect()[0].ready)


def test_without_an_engine_the_answer_is_immediate(robot: StandInRobot, device: Make, dispatching: Dispatching) -> None:
    device(timeout=60.0)
    messages = []

    def no_engine() -> bool:
        messages.append(dispatching.infer()[1].message)
        return "engine_unavailable: no engine subscribes /preprocessed/batch" in messages[-1]

    assert wait_until(no_engine), messages[-1]


def test_an_engine_lost_in_mid_inference_ends_the_wait(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    """Fault: the engine falls silent with a request in hand. Expected: EngineUnavailable long before the deadline."""

    def die(engine: StandInEngine, request: Request) -> None:
        if len(engine.requests) > 1:
            engine.card = None
        else:
            engine.reply(request)

    engine = stand_in(die)
    node = device(timeout=60.0)
    dispatching.infer_until_ok()
    _, result = dispatching.infer(timeout_s=20.0)
    assert result.message.startswith("engine_unavailable: the engine was lost"), result.message
    assert "the engine is lost" in node._status().message
    assert engine.requests


def test_a_late_a_second_and_a_foreign_reply_are_dropped(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    """Fault: replies that nobody waits for. Invariant: each goal gets the reply to its own request, once."""
    late: list[Request] = []

    def answer(engine: StandInEngine, request: Request) -> None:
        if len(late) < 1:
            late.append(request)
            return
        engine.reply(late[0], action=9.0)
        engine.reply(request, action=8.0, session="another device's")
        engine.reply(request, action=0.0)
        engine.reply(request, action=7.0)

    engine = stand_in(answer)
    node = device(timeout=0.5)
    assert wait_until(lambda: dispatching.infer()[1].message.startswith("timeout:")) and late
    expected = node._runner._postprocessor(np.zeros((50, 6), np.float32), {})
    np.testing.assert_array_equal(chunk_of(dispatching.infer_until_ok()), expected)
    dropped = node._runner._client.dropped
    assert wait_until(lambda: dropped["late_or_duplicate"] >= 2 and dropped["foreign"] >= 1), dropped
    assert len({r.sequence for r in engine.requests}) == len(engine.requests)


@pytest.mark.parametrize(
    "words",
    [
        {"status": "engine_unavailable", "message": "engine is LOADING"},
        {"status": "policy_mismatch", "message": "fingerprint"},
    ],
)
def test_another_engine_on_the_topic_cannot_answer_for_the_one_that_was_asked(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make, words: dict[str, str]
) -> None:
    """Fault: a second engine hears every request and refuses it first. Expected: the asked one's action is taken."""

    def refused_by_another(engine: StandInEngine, request: Request) -> None:
        engine.reply(request, None, engine_id="standing by", **words)
        engine.reply(request, 0.25)

    stand_in(refused_by_another)
    node = device()
    dispatching.infer_until_ok()
    for _ in range(3):
        status, result = dispatching.infer()
        assert status is GoalStatus.SUCCEEDED, result.message
    assert node._runner._client.dropped["foreign"] >= 4


def test_another_policy_is_refused_before_the_first_action(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    engine = stand_in(promptly, fingerprint="feedbeef")
    device()
    messages: list[str] = []

    def mismatch() -> bool:
        messages.append(dispatching.infer()[1].message)
        return "policy_mismatch" in messages[-1] and "feedbeef" in messages[-1]

    assert wait_until(mismatch), messages[-1]
    assert engine.requests == []


def test_an_engine_that_is_not_ready_is_not_asked(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    engine = stand_in(promptly, state=EngineState.FAULT, message="model.onnx is corrupt")
    device()
    messages: list[str] = []

    def told() -> bool:
        messages.append(dispatching.infer()[1].message)
        return "FAULT model.onnx is corrupt" in messages[-1]

    assert wait_until(told), messages[-1]
    assert engine.requests == []


def test_an_engine_without_a_card_is_spoken_to_in_the_plain_form(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    engine = stand_in(promptly, plain=True)
    device()
    dispatching.infer_until_ok()
    request = engine.requests[-1]
    assert not request.extended and request.deadline_ms is None
    image = request.batch["observation.images.top"]
    assert isinstance(image, np.ndarray) and image.shape == (1, 3, 96, 128) and image.dtype == np.float32


def test_an_engines_error_reaches_the_dispatcher_by_name(
    robot: StandInRobot, device: Make, dispatching: Dispatching, stand_in: Make
) -> None:
    def refuse(engine: StandInEngine, request: Request) -> None:
        engine.reply(request, action=None, status="non_finite_action", message="joint 3 is NaN")

    stand_in(refuse)
    device()
    messages: list[str] = []

    def told() -> bool:
        messages.append(dispatching.infer()[1].message)
        return messages[-1] == "non_finite_action: joint 3 is NaN"

    assert wait_until(told), messages[-1]


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ({"inference_id": ""}, "rejected: the goal's inference_id is empty"),
        (
            {"obs_timestamp": new_message("builtin_interfaces/msg/Time", sec=105)},
            "rejected: the goal's obs_timestamp",
        ),
    ],
)
def test_a_goal_that_cannot_be_meant_is_refused_with_the_reason(goal: dict[str, Any], says: str):
    fields = {"inference_id": "a", **goal}
    with pytest.raises(RequestRejected) as caught:
        check_goal(new_message("ibrobot_msgs/action/DispatchInfer_Goal", **fields), 100 * 10**9)
    assert f"{caught.value.wire_name}: {caught.value}".startswith(says)


def test_a_goal_before_the_first_clock_is_refused():
    goal = new_message("ibrobot_msgs/action/DispatchInfer_Goal", inference_id="a")
    with pytest.raises(RequestRejected, match="no /clock has come"):
        check_goal(goal, 0)


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1", "1e300"])
def test_a_timeout_that_cannot_be_waited_for_is_refused_at_the_start(seconds: str) -> None:
    given = {"checkpoint": str(POLICY), "robot_config_path": str(ROBOT), "request_timeout": seconds}
    with pytest.raises(ParameterError, match=f"parameter 'request_timeout' = '{seconds}'"):
        build_parameters(PolicyParameters, given)


def test_a_goal_without_a_stamp_is_of_now():
    goal = new_message("ibrobot_msgs/action/DispatchInfer_Goal", inference_id="a")
    assert check_goal(goal, 100) == 100


def test_a_goal_from_the_future_is_answered(robot: StandInRobot, device: Make, dispatching: Dispatching) -> None:
    device()
    status, result = dispatching.infer(stamp_ns=dispatching.node.now_ns() + 60 * 10**9)
    assert status is GoalStatus.ABORTED
    assert "in the future" in result.message


def test_a_flood_of_garbled_replies_is_counted_and_told_of_now_and_then(
    device: Make, stand_in: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault: whoever publishes garbage on the reply topic. Invariant: the log does not grow with it."""
    engine = stand_in(promptly)
    dropped = device()._runner._client.dropped
    assert wait_until(lambda: engine._replies.matched)

    began = time.monotonic()
    for sent in range(8, 88, 8):  # the queues hold ten each
        for _ in range(8):
            engine._replies.publish(to_variants({"action": np.zeros((1, 6), np.float32)}))
        assert wait_until(lambda sent=sent: dropped["malformed"] == sent)
    told = [record for record in caplog.records if "Malformed reply dropped" in record.getMessage()]
    assert 1 <= len(told) <= 1 + (time.monotonic() - began) < dropped["malformed"] / 4
