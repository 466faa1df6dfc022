"""The dispatcher on real DDS: a stand-in for the device's action server, joint states, and someone who listens."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import robot_config
from inference_service.dispatch.safety import SafeBehaviour
from inference_service.nodes import dispatcher_node
from inference_service.nodes.diagnostics import stamp_to_ns
from inference_service.nodes.dispatcher_node import DispatcherNode, DispatcherParameters, dispatcher_config
from inference_service.nodes.dispatcher_robot import joint_topics, safety_limits
from inference_service.nodes.runtime import build_parameters
from inference_service.transport import create_node
from inference_service.transport.protocol import GoalStatus, Node, ServerGoal
from inference_service.wire.interfaces import new_message
from inference_service.wire.variants import to_variants
from robot_config import ConfigError, ContractError, load_robot_config

ROOT = Path(__file__).resolve().parents[2]
SERVER = "/act_inference_node/DispatchInfer"
ACTION = "ibrobot_msgs/action/DispatchInfer"
ARM = "/arm_position_controller/commands"
GRIPPER = "/gripper_position_controller/commands"
HOME = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
ERROR = 2


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


@pytest.fixture
def robot_file(tmp_path: Path) -> Callable[..., Path]:
    """The simulated arm's file with another ``safety`` section."""

    def write(**safety: Any) -> Path:
        source = Path(robot_config.__file__).parent / "robots" / "so101_sim.yaml"
        tree = yaml.safe_load(source.read_text())
        tree["robot"]["safety"].update(safety)
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


class Device:
    """Answers goals as ``behave`` says; remembers them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.goals: list[ServerGoal] = []
        self.behave: Callable[[ServerGoal], np.ndarray | str] = lambda _goal: np.tile(HOME, (50, 1)).astype(np.float32)
        self.failure_status = GoalStatus.ABORTED
        self.hang = threading.Event()
        self._server = node.create_action_server(SERVER, ACTION, self._execute)

    def _execute(self, goal: ServerGoal) -> tuple[GoalStatus, Any]:
        self.goals.append(goal)
        answer = self.behave(goal)
        failed = isinstance(answer, str)
        result = new_message(
            f"{ACTION}_Result",
            action_chunk=to_variants({} if failed else {"action": answer}),
            chunk_size=0 if failed else len(answer),
            success=not failed,
            message=answer if failed else "",
            inference_latency_ms=12.34,
        )
        return (self.failure_status if failed else GoalStatus.SUCCEEDED), result

    def never(self, goal: ServerGoal) -> str:
        """Accept and say nothing until the goal is cancelled."""
        wait_for(lambda: goal.cancel_requested or self.hang.is_set(), "a cancel", 60.0)
        return "cancelled"

    def close(self) -> None:
        self.hang.set()
        self.node.close()


class World:
    """The robot's side and a listener: joint states out; commands, ticks and diagnostics in."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self.node = create_node("world", domain_id=domain_id)
        self.positions: np.ndarray | None = HOME
        self.commands: dict[str, list[np.ndarray]] = {ARM: [], GRIPPER: []}
        self.ticks: list[int] = []
        self.smoothing: list[bool] = []
        self.diagnostics: list[Any] = []
        self._states = self.node.create_publisher("/joint_states", "sensor_msgs/msg/JointState")
        for topic, heard in self.commands.items():
            self._listen(topic, "std_msgs/msg/Float64MultiArray", lambda m, heard=heard: heard.append(m.data.copy()))
        self._listen("/action_dispatcher/queue_size", "std_msgs/msg/Int32", lambda m: self.ticks.append(m.data))
        self._listen(
            "/action_dispatcher/smoothing_enabled", "std_msgs/msg/Bool", lambda m: self.smoothing.append(m.data)
        )
        self._listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", self._on_diagnostics)
        self.node.create_timer(0.02, self._publish_state, group="states")

    def _listen(self, topic: str, kind: str, callback: Callable[[Any], None]) -> None:
        self.node.create_subscription(topic, kind, callback)

    def _on_diagnostics(self, message: Any) -> None:
        self.diagnostics += [status for status in message.status if status.name == "action_dispatcher"]

    def _publish_state(self) -> None:
        if self.positions is None:
            return
        names = ["6", "5", "4", "3", "2", "1"]  # by name, in any order
        state = new_message("sensor_msgs/msg/JointState", name=names, position=self.positions[::-1].copy())
        self._states.publish(state)

    def value(self, key: str) -> str:
        """A value of the newest status."""
        return next(v.value for v in self.diagnostics[-1].values if v.key == key)

    def levels(self) -> list[int]:
        return [int(status.level) for status in self.diagnostics]

    def call(self, service: str) -> None:
        done = threading.Event()
        client = self.node.create_client(service, "std_srvs/srv/Empty")  # type: ignore[attr-defined]
        wait_for(lambda: client.is_ready, service)
        client.call(new_message("std_srvs/srv/Empty_Request"), lambda _: done.set())
        assert done.wait(5.0), f"{service} did not answer"


@pytest.fixture
def world(domain_id: int) -> Iterator[World]:
    world = World(domain_id)
    yield world
    world.node.close()


@contextlib.contextmanager
def device(world: World) -> Iterator[Device]:
    standing_in = Device(create_node("act_inference_node", domain_id=world.domain_id))
    try:
        yield standing_in
    finally:
        standing_in.close()


@contextlib.contextmanager
def dispatcher(world: World, path: Path, **values: str) -> Iterator[DispatcherNode]:
    settings = {"robot_config_path": str(path), "start_ramp_s": "0", **values}
    node = create_node("action_dispatcher", domain_id=world.domain_id)
    try:
        app = DispatcherNode(node, build_parameters(DispatcherParameters, settings))
        yield app
        app.close()
        assert app.failure is None
        assert node.errors == 0
    finally:
        node.close()


def test_chunks_become_commands_on_the_contracts_topics(
    world: World, robot_file: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_node, "STATS_PERIOD_S", 0.5)
    caplog.set_level(logging.INFO)
    with device(world) as standing_in, dispatcher(world, robot_file()):
        wait_for(lambda: len(world.commands[ARM]) > 30 and len(world.commands[GRIPPER]) > 30, "commands")
        wait_for(lambda: world.diagnostics and world.levels()[-1] == 0, "an OK status")
        now_ns = standing_in.node.now_ns()
    for sent in world.commands[ARM]:
        np.testing.assert_allclose(sent, HOME[:5], atol=1e-6)
    for sent in world.commands[GRIPPER]:
        np.testing.assert_allclose(sent, HOME[5:], atol=1e-6)
    ids = [goal.request.inference_id for goal in standing_in.goals]
    assert len(set(ids)) == len(ids) > 1
    assert 0 <= now_ns - stamp_to_ns(standing_in.goals[0].request.obs_timestamp) < 60e9
    assert max(world.ticks) > 30
    assert world.smoothing[-1] is np.False_ or world.smoothing[-1] is False
    assert world.value("state") == "running"
    assert int(world.value("actions")) > 5
    assert float(world.value("tick_p50_ms")) > 1
    lines = [record.getMessage() for record in caplog.records if record.name == "action_dispatcher"]
    assert lines[:2] == [
        "Dispatcher ready. Hz: 20, Watermark: 40, Smoothing: OFF",
        f"Waiting for inference server: {SERVER}",
    ]
    assert lines.count("✓ First inference received: chunk=50, latency=12.3ms") == 1
    stats = [line for line in lines if line.startswith("[stats]")]
    assert all(re.fullmatch(r"\[stats\] inferences=\d+, avg_latency=\d+\.\dms, queue=\d+, hold=\d+", s) for s in stats)
    assert stats


def test_first_commands_lead_from_the_measured_positions(world: World, robot_file: Callable[..., Path]) -> None:
    with device(world) as standing_in, dispatcher(world, robot_file(), start_ramp_s="1.0"):
        standing_in.behave = lambda _goal: np.zeros((50, 6), np.float32)
        wait_for(lambda: len(world.commands[ARM]) > 25, "commands")
    first = world.commands[ARM][0]
    assert (first < HOME[:5]).all()
    assert (first > 0.9 * HOME[:5]).all()
    np.testing.assert_allclose(world.commands[ARM][24], np.zeros(5), atol=1e-9)


def test_without_joint_states_nothing_is_commanded_and_it_is_told(
    world: World, robot_file: Callable[..., Path]
) -> None:
    world.positions = None
    with device(world), dispatcher(world, robot_file()):
        wait_for(lambda: world.diagnostics and "no joint state" in world.diagnostics[-1].message, "the error")
        assert world.levels()[-1] == ERROR
        assert not world.commands[ARM]
        world.positions = HOME
        wait_for(lambda: world.commands[ARM], "commands")


def test_a_goal_accepted_and_never_answered_is_given_up_cancelled_and_sent_again(
    world: World, robot_file: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defects 2 and 4 over the wire; ticks and stats go on meanwhile."""
    monkeypatch.setattr(dispatcher_node, "STATS_PERIOD_S", 0.5)
    caplog.set_level(logging.INFO)
    with device(world) as standing_in:
        standing_in.behave = standing_in.never
        with dispatcher(world, robot_file(), request_timeout="0.2"):
            wait_for(lambda: len(standing_in.goals) >= 2, "a second goal")
            wait_for(lambda: standing_in.goals[0].cancel_requested, "the first goal's cancel")
            wait_for(lambda: ERROR in world.levels(), "an ERROR")
            assert "given up" in next(s.message for s in world.diagnostics if int(s.level) == ERROR)
            before = len(world.ticks)
            wait_for(lambda: len(world.ticks) > before + 10, "ticks")
            wait_for(lambda: "[stats] inferences=0, avg_latency=0.0ms, queue=0, hold=0" in caplog.text, "a stats line")
            standing_in.behave = lambda _goal: np.tile(HOME, (50, 1)).astype(np.float32)
            wait_for(lambda: world.commands[ARM], "commands")
    assert not any("late" in r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)


def test_p5_p6_the_server_goes_and_comes_back(world: World, robot_file: Callable[..., Path]) -> None:
    path = robot_file(hold_timeout_s=0.3, on_timeout="zeros", max_action_age_s=0.5)
    with dispatcher(world, path):
        with device(world):
            wait_for(lambda: len(world.commands[ARM]) > 20, "commands")
        wait_for(lambda: world.value("state") == "safe", "the safe state")
        assert any("server" in status.message for status in world.diagnostics if int(status.level) == ERROR)
        assert world.value("server_ready") == "false"
        wait_for(lambda: np.allclose(world.commands[ARM][-1], 0), "the way to zero")
        assert world.levels()[-1] == ERROR
        assert "no action for" in world.diagnostics[-1].message
        with device(world):
            wait_for(lambda: world.value("state") == "running" and world.levels()[-1] == 0, "the resumption")
            wait_for(lambda: np.allclose(world.commands[ARM][-1], HOME[:5], atol=1e-6), "the old commands")


def test_p3_a_bad_chunk_never_reaches_the_robot(world: World, robot_file: Callable[..., Path]) -> None:
    spoiled = np.tile(HOME, (50, 1)).astype(np.float32)
    spoiled[7, 2] = np.nan
    with device(world) as standing_in, dispatcher(world, robot_file()):
        standing_in.behave = lambda _goal: spoiled
        wait_for(lambda: world.diagnostics and "action[7] of joint '3' is nan" in world.value("last_error"), "the word")
        assert not world.commands[ARM]
        standing_in.behave = lambda _goal: np.full((50, 6), 9.0, np.float32)
        wait_for(lambda: len(world.commands[ARM]) > 5, "commands")
        wait_for(lambda: int(world.value("clamped")) > 0, "counts")
    limits = load_robot_config(robot_file()).safety.joint_limits
    highest = np.array([limits[name].max for name in "12345"])
    assert all((sent <= highest).all() for sent in world.commands[ARM])


def test_an_answer_without_actions_is_a_failure_with_its_reason(world: World, robot_file: Callable[..., Path]) -> None:
    with device(world) as standing_in, dispatcher(world, robot_file()):
        standing_in.behave = lambda _goal: "stale_observation: camera top is 3.1 s old"
        wait_for(lambda: world.diagnostics and "camera top is 3.1 s old" in world.diagnostics[-1].message, "the reason")
        standing_in.failure_status = GoalStatus.SUCCEEDED  # as IB-Robot's device node answers
        standing_in.behave = lambda _goal: "no camera"
        wait_for(lambda: world.value("last_error") == "no camera", "the reason of a goal that succeeded in failing")
        standing_in.behave = lambda _goal: np.zeros((50, 6), np.int32)
        wait_for(lambda: "no tensor of floats" in world.value("last_error"), "the other reason")
        assert not world.commands[ARM]


def test_services_reset_and_toggle_smoothing(world: World, robot_file: Callable[..., Path]) -> None:
    path = robot_file(hold_timeout_s=0.2, latch=True, max_action_age_s=0.3)
    with device(world) as standing_in, dispatcher(world, path):
        wait_for(lambda: len(world.commands[ARM]) > 5, "commands")
        world.call("/action_dispatcher/toggle_smoothing")
        wait_for(lambda: world.smoothing[-1], "smoothing")
        standing_in.behave = lambda _goal: "broken"
        wait_for(lambda: world.diagnostics and world.value("latched") == "true", "the latch")
        standing_in.behave = lambda _goal: np.tile(HOME, (50, 1)).astype(np.float32)
        asked = len(standing_in.goals)
        ticks = len(world.ticks)
        wait_for(lambda: len(world.ticks) > ticks + 20, "a second")
        assert len(standing_in.goals) == asked
        world.call("/action_dispatcher/reset")
        wait_for(lambda: world.value("state") == "running", "the resumption")


@pytest.mark.parametrize("behaviour", ["hold", "zeros"])
def test_on_sigterm_the_robot_is_left_as_configured(
    world: World, robot_file: Callable[..., Path], behaviour: str
) -> None:
    arguments = [f"robot_config_path:={robot_file(on_timeout=behaviour)}", "start_ramp_s:=0.2"]
    code = "import sys; from inference_service.nodes.dispatcher_node import main; sys.exit(main(sys.argv[1:]))"
    with device(world) as standing_in:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for(lambda: len(world.commands[ARM]) > 10, "commands")
            unanswered: list[ServerGoal] = []

            def keep_waiting(goal: ServerGoal) -> str:
                unanswered.append(goal)  # of the goals, one that came before this may have been answered
                return standing_in.never(goal)

            standing_in.behave = keep_waiting
            wait_for(lambda: unanswered, "a goal in flight")
            ticks = len(world.ticks)
            wait_for(lambda: len(world.ticks) > ticks + 5, "word of its acceptance")
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=15)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, log
        wait_for(lambda: unanswered[-1].cancel_requested, "the goal's cancel")
    assert f"Dispatcher stopped: {behaviour}" in log
    expected = np.zeros(5) if behaviour == "zeros" else HOME[:5]
    np.testing.assert_allclose(world.commands[ARM][-1], expected, atol=1e-6)


def test_parameters_override_the_robots_file(robot_file: Callable[..., Path]) -> None:
    robot = load_robot_config(robot_file(on_timeout="stop", max_action_age_s=0.7))
    plain = dispatcher_config(robot, DispatcherParameters(robot_config_path="x"))
    assert (plain.control_hz, plain.queue_size, plain.watermark, plain.smoothing) == (20.0, 100, 40, False)
    assert plain.safety.on_timeout is SafeBehaviour.STOP
    assert plain.safety.max_action_age_s == 0.7
    assert plain.safety.ramp_s == 1.0
    values = {"queue_size": "7", "watermark_threshold": "0", "control_frequency": "50", "request_timeout": "2"}
    given = build_parameters(DispatcherParameters, {"robot_config_path": "x", **values})
    chosen = dispatcher_config(robot, given)
    assert (chosen.control_hz, chosen.queue_size, chosen.watermark, chosen.request_timeout_s) == (50.0, 7, 0, 2.5)
    assert plain.session != chosen.session


def test_limits_come_from_the_robots_file(robot_file: Callable[..., Path]) -> None:
    robot = load_robot_config(robot_file(max_joint_velocity=3.0))
    joints = safety_limits(robot, 0.0).joints
    assert [joint.name for joint in joints] == list("123456")
    assert (joints[0].lower, joints[0].upper, joints[0].max_velocity) == (-1.92, 1.92, 3.0)
    assert all(joint.measured and not joint.zero_when_safe for joint in joints)
    assert joint_topics(robot) == {"/joint_states": tuple("123456")}


def test_a_robot_file_that_cannot_work_is_refused_with_its_place(
    robot_file: Callable[..., Path], domain_id: int
) -> None:
    path = robot_file()
    path.write_text(path.read_text().replace("std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory"))
    node = create_node("action_dispatcher", domain_id=domain_id)
    try:
        with pytest.raises(ContractError, match=r"arm\.yaml:\d+: .*type: .*JointTrajectory is not served"):
            DispatcherNode(node, DispatcherParameters(robot_config_path=str(path)))
        with pytest.raises(ConfigError, match="no control mode 'teleop'"):
            DispatcherNode(node, DispatcherParameters(robot_config_path=str(robot_file()), control_mode="teleop"))
    finally:
        node.close()


def test_of_two_dispatchers_one_leads_the_robot_and_the_other_takes_over_when_it_is_gone(
    world: World, robot_file: Callable[..., Path]
) -> None:
    """Fault: the stack was started twice. Invariant: nobody's commands but one dispatcher's reach the robot."""
    with device(world) as standing_in:
        standing_in.behave = lambda _goal: np.tile(HOME + 0.05 * np.random.rand(6), (50, 1)).astype(np.float32)
        with dispatcher(world, robot_file()) as first:
            wait_for(lambda: len(world.commands[ARM]) > 20, "commands")
            node = create_node("second_dispatcher", domain_id=world.domain_id)
            second = DispatcherNode(
                node, build_parameters(DispatcherParameters, {"robot_config_path": str(robot_file())})
            )
            try:
                wait_for(lambda: second._stats.obstacle.startswith("another node sends commands on"), "a refusal")
                sent = second._stats.counters.actions
                until = len(world.commands[ARM]) + 20
                wait_for(lambda: len(world.commands[ARM]) > until, "more commands")
                assert (sent, second._stats.counters.actions) == (0, 0)
                assert not first._stats.rival
                first.close()
                wait_for(lambda: second._stats.counters.actions > 5, "the other one to take over")
            finally:
                second.close()
                node.close()
