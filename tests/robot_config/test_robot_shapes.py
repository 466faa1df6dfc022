"""Robots of other shapes than one arm: an arm on wheels with a depth camera, two arms in four joint groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robot_shapes import DUAL_ARM, MOBILE_BASE

from robot_config import SubstitutionError, load_robot_config
from robot_config.plan import LaunchArguments, make_plan

Write = Callable[..., Path]


def test_an_arm_on_wheels(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = load_robot_config(write(text=MOBILE_BASE))
    assert robot.ros2_control.velocity_joints == ("7", "8") and robot.ros2_control.base_vel_max_rad == 4.0
    assert robot.action_map().joints == ("1", "2", "3", None, None)
    assert [camera.name for camera in robot.peripherals] == ["front", "depth", "laser"]
    monkeypatch.delenv("CALIBRATION", raising=False)
    assert robot.calibration_file() == Path("/nowhere/rover.json")
    monkeypatch.setenv("MODELS", str(tmp_path))
    (tmp_path / "fetch").mkdir()
    device, _ = make_plan(robot, LaunchArguments()).processes
    assert device.parameters["lerobot_norm_mode"] == "range_m100_100"
    assert device.parameters["checkpoint"] == str(tmp_path / "fetch")


def test_two_arms(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = load_robot_config(write(text=DUAL_ARM))
    assert robot.joint_names == ("left_1", "left_2", "left_grip", "right_1", "right_2", "right_grip")
    assert robot.action_map().joints == robot.joint_names
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(SubstitutionError, match=r"\$\(find arms\): no such ROS package"):
        make_plan(robot, LaunchArguments())
    index = tmp_path / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "arms").touch()
    (tmp_path / "share/arms/models/fold").mkdir(parents=True)
    device, _ = make_plan(robot, LaunchArguments()).processes
    assert device.parameters["checkpoint"] == str(tmp_path / "share/arms/models/fold")
    assert device.parameters["lerobot_norm_mode"] == "degrees"
