"""The simulated robot on real DDS: what it publishes, takes, refuses and breaks on demand."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco")

from inference_service.core.errors import InferenceServiceError
from inference_service.nodes.decoding import decode_compressed_image, decode_image
from inference_service.nodes.diagnostics import stamp_to_ns
from inference_service.nodes.runtime import ParameterError, build_parameters
from inference_service.nodes.sim_robot import SimRobot, SimRobotParameters
from inference_service.transport import create_node
from inference_service.transport.protocol import Node
from inference_service.wire.interfaces import new_message

ROOT = Path(__file__).resolve().parents[2]
HOME = [0.0, -0.6, 0.9, 0.6, 0.0, 0.6]
ARM = "/arm_position_controller/commands"
GRIPPER = "/gripper_position_controller/commands"
COMMAND = "std_msgs/msg/Float64MultiArray"


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Observer:
    """Someone on the network: keeps what it hears, sends commands."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.heard: dict[str, list[Any]] = {}
        self._publishers: dict[str, Any] = {}

    def listen(self, topic: str, kind: str) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(topic, kind, heard.append)
        return heard

    def states(self) -> list[Any]:
        return self.listen("/joint_states", "sensor_msgs/msg/JointState")

    def pictures(self, camera: str) -> list[Any]:
        return self.listen(f"/camera/{camera}/image_raw", "sensor_msgs/msg/Image")

    def status(self) -> list[Any]:
        return self.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def command(self, topic: str, values: list[float]) -> None:
        publisher = self._publishers.get(topic)
        if publisher is None:
            publisher = self._publishers[topic] = self.node.create_publisher(topic, COMMAND)
            wait_for(lambda: publisher.matched, f"a subscriber of {topic}")
        message = new_message(COMMAND)
        message.data = np.array(values, np.float64)
        publisher.publish(message)


@contextlib.contextmanager
def running(domain_id: int, **values: str) -> Iterator[Observer]:
    """A robot with small, cheap pictures, and an observer in a node of its own."""
    parameters = build_parameters(
        SimRobotParameters, {"node_name": "sim_robot", "renderer": "simple", "image_size": "120x160", **values}
    )
    robot_node = create_node("sim_robot", domain_id=domain_id)
    observer_node = create_node("observer", domain_id=domain_id)
    try:
        robot = SimRobot(robot_node, parameters)
        try:
            yield Observer(observer_node)
            assert robot.failure is None
            assert robot_node.errors == 0
        finally:
            robot.close()
    finally:
        observer_node.close()
        robot_node.close()


def diagnostics(messages: list[Any]) -> dict[str, str]:
    """Values of the newest status of the robot, with its level and text."""
    status = messages[-1].status[0]
    assert status.name == "sim_robot"
    return {"level": str(int(status.level)), "text": status.message, **{v.key: v.value for v in status.values}}


def test_joint_states_and_pictures_are_those_of_the_arm_at_home(domain_id: int) -> None:
    with running(domain_id, image_size="", camera_fps="4") as observer:
        states, top, wrist = observer.states(), observer.pictures("top"), observer.pictures("wrist")
        wait_for(lambda: len(states) > 10 and len(top) > 1 and len(wrist) > 1, "states and pictures")
        now = observer.node.now_ns()
    assert states[0].name == ["1", "2", "3", "4", "5", "6"]
    np.testing.assert_allclose(states[-1].position, HOME, atol=0.02)
    np.testing.assert_allclose(states[-1].velocity, np.zeros(6), atol=0.02)
    for messages in (states, top, wrist):
        stamps = [stamp_to_ns(m.header.stamp) for m in messages]
        assert stamps == sorted(set(stamps))
        assert now - 5_000_000_000 < stamps[-1] <= now
    for messages, camera in ((top, "top"), (wrist, "wrist")):
        picture = decode_image(messages[-1], camera)
        assert picture.shape == (480, 640, 3)
        assert messages[-1].encoding == "rgb8"
        assert messages[-1].header.frame_id == f"camera_{camera}_frame"
        red = (picture[..., 0] > 120) & (picture[..., 1] < 60)
        assert red.sum() > 200, f"no cube in {camera}"


def test_it_moves_where_it_is_told_and_resets(domain_id: int) -> None:
    from inference_service.transport.dds.node import DdsNode

    with running(domain_id) as observer:
        states = observer.states()
        observer.command(ARM, [0.5, -0.6, 0.9, 0.6, 9.0])
        observer.command(GRIPPER, [1.2])
        goal = [0.5, -0.6, 0.9, 0.6, 2.84, 1.2]  # joint 5 was told to go beyond its limit
        wait_for(lambda: states and np.allclose(states[-1].position, goal, atol=0.03), "the arm to arrive")
        client_node = observer.node
        assert isinstance(client_node, DdsNode)
        client = client_node.create_client("/sim_robot/reset", "std_srvs/srv/Empty")
        wait_for(lambda: client.is_ready, "the reset service")
        answers: list[Any] = []
        client.call(new_message("std_srvs/srv/Empty_Request"), answers.append)
        wait_for(lambda: answers, "an answer")
        wait_for(lambda: np.allclose(states[-1].position, HOME, atol=0.03), "home after the reset")


def test_bad_commands_are_refused_counted_and_told_once(domain_id: int, caplog: pytest.LogCaptureFixture) -> None:
    with running(domain_id) as observer, caplog.at_level(logging.INFO, logger="sim_robot"):
        states, statuses = observer.states(), observer.status()
        wait_for(lambda: states, "states")
        for bad in ([1.0] * 4, [math.nan, 0.0, 0.0, 0.0, 0.0], [1.0, math.inf, 0.0, 0.0, 0.0]):
            observer.command(ARM, bad)
        wait_for(lambda: statuses and diagnostics(statuses)["refused"] == "3", "three refusals in diagnostics")
        seen = diagnostics(statuses)
        assert seen["level"] == "1"
        assert "not finite" in seen["last_refusal"]
        np.testing.assert_allclose(states[-1].position, HOME, atol=0.03)
        observer.command(ARM, HOME[:5])
        wait_for(lambda: diagnostics(statuses)["level"] == "0", "well again after a good command")
        assert diagnostics(statuses)["commands"] == "1"
    told = [r.getMessage() for r in caplog.records if "efused" in r.getMessage() or "accepted again" in r.getMessage()]
    assert len(told) == 2, told
    assert "4 targets for 5 joints" in told[0]


def test_a_frozen_camera_repeats_itself_and_a_mute_one_is_silent(domain_id: int) -> None:
    with running(domain_id, camera_fps="20", fault_freeze_camera="top", fault_after_s="1.0") as observer:
        top, wrist = observer.pictures("top"), observer.pictures("wrist")
        wait_for(lambda: len(top) > 40, "pictures")
    stamps = [stamp_to_ns(m.header.stamp) for m in top]
    assert len(set(stamps)) > 1, "it was well before fault_after_s"
    assert len(set(stamps[-5:])) == 1
    assert all(np.array_equal(m.data, top[-1].data) for m in top[-5:])
    assert len({stamp_to_ns(m.header.stamp) for m in wrist[-5:]}) == 5, "the other camera is well"

    with running(domain_id, camera_fps="20", fault_mute_camera="wrist") as observer:
        top, wrist = observer.pictures("top"), observer.pictures("wrist")
        wait_for(lambda: len(top) > 20, "pictures")
        assert not wrist


def test_faults_of_the_joint_states_end_after_fault_for_s(domain_id: int) -> None:
    with running(domain_id, fault_nan_state="true", fault_drop_joint="3", fault_for_s="2.0") as observer:
        states = observer.states()
        wait_for(lambda: states and len(states[-1].name) == 6, "the faults to end")
    assert states[0].name == ["1", "2", "4", "5", "6"]
    assert len(states[0].position) == len(states[0].velocity) == 5
    assert math.isnan(states[0].position[0])
    assert np.isfinite(states[-1].position).all()


@pytest.mark.parametrize("encoding", ["bgra8", "jpeg"])
def test_other_encodings_show_the_same_picture(domain_id: int, encoding: str) -> None:
    with running(domain_id, image_encoding=encoding) as observer:
        if encoding == "jpeg":
            heard = observer.listen("/camera/top/image_raw/compressed", "sensor_msgs/msg/CompressedImage")
            picture = decode_compressed_image(wait_for(lambda: heard, "a picture")[0], "top")
            assert heard[0].format == "jpeg"
        else:
            heard = observer.pictures("top")
            picture = decode_image(wait_for(lambda: heard, "a picture")[0], "top")
            assert heard[0].encoding == encoding
    assert picture.shape == (120, 160, 3)
    yellow = (picture[..., 0] > 180) & (picture[..., 2] < 90)
    assert yellow.sum() > 200, "red and blue are swapped, or the arm is missing"


def test_the_robot_file_names_the_topics(domain_id: int, tmp_path: Path) -> None:
    shipped = (ROOT / "robot_config/robots/so101_sim.yaml").read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.replace("/arm_position_controller", "/left/arm").replace("/joint_states", "/left/state"))
    with running(domain_id, robot_config_path=str(mine)) as observer:
        states = observer.listen("/left/state", "sensor_msgs/msg/JointState")
        observer.command("/left/arm/commands", [0.3, -0.6, 0.9, 0.6, 0.0])
        wait_for(lambda: states and abs(states[-1].position[0] - 0.3) < 0.02, "the arm to arrive")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"fault_mute_camera": "front"}, "no camera 'front', this robot has top, wrist"),
        ({"fault_drop_joint": "elbow"}, "no joint 'elbow'"),
        ({"image_size": "640"}, "write HEIGHTxWIDTH"),
        ({"model_path": "/nowhere.xml"}, "/nowhere.xml"),
    ],
)
def test_parameters_that_cannot_work_are_named(domain_id: int, values: dict[str, str], says: str) -> None:
    with pytest.raises(InferenceServiceError, match=says), running(domain_id, **values):
        pass


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ParameterError, match="did you mean 'camera_fps'"):
        build_parameters(SimRobotParameters, {"camera_fsp": "3"})


def test_as_a_process_it_tells_of_lost_time_and_ends_on_a_signal(domain_id: int) -> None:
    """Stopped for two seconds, the world goes on from where it was: a warning, no leap."""
    code = "import sys; from inference_service.nodes.sim_robot import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "renderer:=simple", "image_size:=120x160"],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
        stderr=subprocess.PIPE,
        text=True,
    )
    node = create_node("observer", domain_id=domain_id)
    try:
        observer = Observer(node)
        statuses, _ = observer.status(), observer.pictures("top")
        wait_for(lambda: statuses and float(diagnostics(statuses)["fps.top"]) > 0, "a robot that runs", 30.0)
        assert diagnostics(statuses)["fps.wrist"] == "0.0", "nobody looks through the wrist camera: not rendered"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: any("slower than real time" in m.status[0].message for m in statuses), "the warning")
        heard = len(statuses)
        wait_for(lambda: len(statuses) > heard, "the next diagnostics")
        factors = [float(diagnostics([message])["real_time_factor"]) for message in statuses]
        assert max(factors) < 2.0, "the two seconds were made up for in one leap"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Simulated robot ready" in log
        assert "Traceback" not in log
    finally:
        node.close()
        if process.poll() is None:
            process.kill()
            process.wait()
