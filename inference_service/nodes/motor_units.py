"""Which motor unit each element of a robot's state and action vectors has (``lerobot_norm_mode``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_service.core.batch import Float32
from inference_service.core.errors import CalibrationError
from inference_service.core.motor_units import (
    UNCHANGED,
    NormMode,
    UnitScale,
    UnitTable,
    joint_scale,
    read_calibration,
    velocity_scale,
)
from inference_service.core.policy_config import STATE
from robot_config import ObservationSpec, RobotConfig
from robot_config.contract import JOINT_STATE

DEFAULT_GRIPPERS = ("6",)
"""Grippers of a robot that names none: the SO-101's, as IB-Robot has it."""


@dataclass(frozen=True)
class MotorUnits:
    """Between the robot's units (rad, rad/s) and those of the policy. Keeps no state."""

    state: UnitTable
    action: UnitTable
    description: str

    def observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """A copy with ``observation.state`` in the policy's units, where there is one."""
        converted = dict(observation)
        if STATE in converted:
            converted[STATE] = self.state.to_units(converted[STATE])
        return converted

    def actions(self, actions: Float32) -> Float32:
        """A chunk (n, action_dim) float32 in the robot's units."""
        result: Float32 = self.action.to_radians(actions).astype(np.float32)
        return result


def motor_units(robot: RobotConfig, specs: Sequence[ObservationSpec], mode: NormMode) -> MotorUnits:
    """The conversions of a robot whose policy reads ``specs``.

    A state element of a JointState is known by its selector's name; one of an array, and an action's, by its place
    among ``joints.all`` and the ``velocity_joints`` after it. What is neither a calibrated joint's position nor a base
    velocity joint's speed passes unchanged.

    Raises:
        CalibrationError: the mode needs a calibration that the robot file does not name, or that cannot be used.
        SubstitutionError: ``calib_file`` holds a ``$(…)`` that cannot be resolved.
    """
    if mode == "none":
        return MotorUnits(UnitTable(()), UnitTable(()), "none: the policy's units are the robot's")
    positions = _position_scales(robot, mode)
    hardware = robot.ros2_control
    speed = velocity_scale(hardware.base_vel_max_rad) if hardware.base_vel_max_rad else UNCHANGED
    speeds = dict.fromkeys(hardware.velocity_joints, speed)
    vector = [speeds.get(name) or positions.get(name, UNCHANGED) for name in _vector(robot)]
    state: list[UnitScale] = []
    for spec in specs:
        if spec.key == STATE:
            state += _stream_scales(spec, positions, speeds, vector[len(state) :])
    description = f"{mode}: joints {', '.join(positions)} by {robot.calibration_file()}"
    if hardware.base_vel_max_rad and speeds:
        description += f"; wheels {', '.join(speeds)} by {hardware.base_vel_max_rad:g} rad/s"
    return MotorUnits(UnitTable(state), UnitTable(vector), description)


def _vector(robot: RobotConfig) -> tuple[str, ...]:
    """Joints in the order of an action vector."""
    return tuple(dict.fromkeys((*robot.joint_names, *robot.ros2_control.velocity_joints)))


def _position_scales(robot: RobotConfig, mode: NormMode) -> dict[str, UnitScale]:
    hardware = robot.ros2_control
    joints = [n for n in hardware.joint_names or robot.joint_names if n not in hardware.velocity_joints]
    advice = "or write lerobot_norm_mode: none where the policy was trained in radians"
    if not joints:
        raise CalibrationError(f"{robot.where('joints')}: lerobot_norm_mode {mode} needs joints: list them, {advice}")
    path = robot.calibration_file()
    if path is None:
        raise CalibrationError(
            f"{robot.where('ros2_control')}: lerobot_norm_mode {mode} needs ros2_control.calib_file, the calibration "
            f"that the policy's data were recorded with: add it, {advice}"
        )
    ranges = read_calibration(path, joints, hardware.where("calib_file"))
    grippers = hardware.gripper_joints or robot.joints.get("gripper", ()) or DEFAULT_GRIPPERS
    return {joint: joint_scale(mode, ranges[joint], joint in grippers) for joint in joints}


def _stream_scales(
    spec: ObservationSpec,
    positions: Mapping[str, UnitScale],
    speeds: Mapping[str, UnitScale],
    rest: Sequence[UnitScale],
) -> list[UnitScale]:
    """``rest``: the scales of the vector's elements that the streams before this one left."""
    if spec.selector is None:
        return list(rest)
    if spec.type != JOINT_STATE:
        missing = len(spec.selector.names) - len(rest)
        return [*rest[: len(spec.selector.names)], *[UNCHANGED] * missing]
    fields: Mapping[str, Mapping[str, UnitScale]] = {"": positions, "position": positions, "velocity": speeds}
    named = [name.rpartition(".") for name in spec.selector.names]
    return [fields.get(field, {}).get(joint, UNCHANGED) for field, _, joint in named]
