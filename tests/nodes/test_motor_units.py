"""``lerobot_norm_mode``: which unit each element of a robot has, and that the device's node converts both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.errors import CalibrationError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.motor_units import motor_units
from inference_service.nodes.policy_node import PolicyNode, PolicyParameters
from inference_service.transport import create_node
from inference_service.wire.envelope import Request
from inference_service.wire.variants import from_variants
from robot_config import RobotConfig, SubstitutionError, load_robot_config
from tests.nodes.harness import POLICY, ROBOT, Dispatching, StandInEngine, StandInRobot, wait_until
from tests.robot_config.robot_files import MINIMAL
from tests.robot_config.robot_shapes import DUAL_ARM, MOBILE_BASE

QUARTER = math.pi / 2
RANGE = {"range_min": 1024, "range_max": 3072}  # -90° to +90°


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RobotConfig]:
    """A robot with a calibration of ±90° for ``joints``, under whatever name its file asks for."""

    def make(text: str, *joints: str) -> RobotConfig:
        (tmp_path / ".calibrate").mkdir()
        for path in (tmp_path / "rover.json", tmp_path / ".calibrate/pair.json"):
            path.write_text(json.dumps(dict.fromkeys(joints, RANGE)))
        monkeypatch.setenv("CALIBRATION", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        path = tmp_path / "robot.yaml"
        path.write_text(text)
        return load_robot_config(path)

    return make


def test_an_arm_on_wheels(load: Callable[..., RobotConfig]) -> None:
    robot = load(MOBILE_BASE, "1", "2", "3")
    units = motor_units(robot, robot.contract.observations, "range_m100_100")
    seen = units.observation({"observation.state": np.array([QUARTER, -QUARTER, 0, 1, -4]), "task": "fetch"})
    np.testing.assert_allclose(seen["observation.state"], [100, -100, 50, 25, -100], atol=1e-9)
    assert seen["task"] == "fetch"
    chunk = units.actions(np.array([[50, -100, 100, 100, -25]], np.float32))
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, [[QUARTER / 2, -QUARTER, QUARTER, 4, -1]], atol=1e-6)
    assert "1, 2, 3" in units.description and "7, 8" in units.description and "rover.json" in units.description


def test_two_arms_by_name_whatever_the_order_of_the_streams(load: Callable[..., RobotConfig]) -> None:
    """The state is read right arm first, the action vector goes left arm first, and an effort has no motor unit."""
    text = DUAL_ARM.replace("degrees", "range_m100_100")
    robot = load(text, *[f"{side}_{part}" for side in ("left", "right") for part in ("1", "2", "grip")])
    units = motor_units(robot, robot.contract.observations, "range_m100_100")
    seen = units.observation({"observation.state": np.array([QUARTER, 0, QUARTER, 0, -QUARTER, 0, 0.3])})
    np.testing.assert_allclose(seen["observation.state"], [100, 0, 100, 0, -100, 50, 0.3], atol=1e-9)
    chunk = units.actions(np.array([[100, 0, 100, 0, 0, 0]], np.float32))
    np.testing.assert_allclose(chunk, [[QUARTER, 0, QUARTER, 0, 0, -QUARTER]], atol=1e-6)


def test_an_array_counts_by_place_and_the_so101_gripper_needs_no_name(load: Callable[..., RobotConfig]) -> None:
    text = (
        MOBILE_BASE.replace('gripper: ["3"]', 'hand: ["6"]')
        .replace('["1", "2", "3"]', '["1", "2", "6"]')
        .replace(
            "type: sensor_msgs/msg/JointState\n        selector:", "type: std_msgs/msg/Float64MultiArray\n        #"
        )
    )
    robot = load(text, "1", "2", "6")
    units = motor_units(robot, robot.contract.observations, "range_m100_100")
    seen = units.observation({"observation.state": np.array([QUARTER, 0, QUARTER, 4, 0])})
    np.testing.assert_allclose(seen["observation.state"], [100, 0, 100, 100, 0], atol=1e-9)
    assert units.state.scales[2].span == 100.0


def test_wheels_without_a_top_speed_and_mode_none_pass_unchanged(load: Callable[..., RobotConfig]) -> None:
    robot = load(MOBILE_BASE.replace("    base_vel_max_rad: 4.0\n", ""), "1", "2", "3")
    state = {"observation.state": np.array([QUARTER, 0, 0, 1.5, -4])}
    seen = motor_units(robot, robot.contract.observations, "degrees").observation(state)["observation.state"]
    assert seen[0] == pytest.approx(90.02197802) and list(seen[3:]) == [1.5, -4]
    chunk = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(motor_units(robot, (), "none").actions(chunk), chunk)


def test_what_is_missing_is_named(load: Callable[..., RobotConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    robot = load(MOBILE_BASE, "1", "2")
    with pytest.raises(CalibrationError, match=r"rover\.json: joint '3' is missing \(the file has 1, 2\)"):
        motor_units(robot, (), "degrees")
    monkeypatch.delenv("CALIBRATION")
    with pytest.raises(CalibrationError, match=r"robot\.yaml:20: no calibration file /nowhere/rover\.json"):
        motor_units(robot, (), "degrees")


def test_a_robot_without_calibration_says_what_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(MINIMAL)
    robot = load_robot_config(path)
    with pytest.raises(CalibrationError, match=r"ros2_control\.calib_file.*lerobot_norm_mode: none"):
        motor_units(robot, robot.contract.observations, "range_m100_100")
    path.write_text(DUAL_ARM)
    monkeypatch.delenv("HOME")
    with pytest.raises(SubstitutionError, match=r"arm\.yaml:9: \$\(env HOME\)"):
        motor_units(load_robot_config(path), (), "degrees")


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    """What a test opens is closed after it, newest first."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


def test_the_device_node_converts_both_ways(opened: list[Any], tmp_path: Path) -> None:
    """A robot in radians, an engine that sees what a policy in LeRobot's percents would see."""
    calibration = tmp_path / "arm.json"
    calibration.write_text(json.dumps(dict.fromkeys("123456", RANGE)))
    file = tmp_path / "robot.yaml"
    file.write_text(ROBOT.read_text() + f"\n  ros2_control:\n    calib_file: {calibration}\n")
    robot = StandInRobot()
    engine = StandInEngine(lambda own, request: own.reply(request, action=0.5))
    dispatching = Dispatching()
    opened += [robot.node, engine.node, dispatching.node]
    node = create_node("act_inference_node")
    opened.append(node)
    parameters = PolicyParameters(
        checkpoint=str(POLICY),
        robot_config_path=str(file),
        execution_mode="distributed",
        lerobot_norm_mode="range_m100_100",
    )
    opened.append(PolicyNode(node, parameters))
    chunk = np.asarray(from_variants(dispatching.infer_until_ok().action_chunk)["action"])

    folder = PolicyFolder.load(POLICY)
    percent = robot.joints / QUARTER * 100
    percent[5] = percent[5] / 2 + 50  # the gripper counts from 0
    observation: dict[str, Any] = {"observation.state": percent}
    for name in ("top", "wrist"):
        observation[f"observation.images.{name}"] = np.zeros((96, 128, 3), np.uint8)
    expected = TensorPreprocessor(folder)(observation).batch["observation.state"]
    request: Request = engine.requests[-1]
    np.testing.assert_allclose(np.asarray(request.batch["observation.state"]), np.asarray(expected), rtol=1e-5)

    policy_units = TensorPostprocessor(folder)(np.full((50, 6), 0.5, np.float32))
    share = policy_units / 100
    share[:, 5] = policy_units[:, 5] / 50 - 1
    np.testing.assert_allclose(chunk, share * QUARTER, rtol=1e-5, atol=1e-6)
    assert wait_until(lambda: engine.requests)
