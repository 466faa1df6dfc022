"""Sections that belong to drivers and plugins; the few keys of them that matter here.

Whatever else stands in them is theirs: a camera driver's exposure or a hardware plugin's port cannot be known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from robot_config.section import Name, Names, OpenSection, Section


class Peripheral(OpenSection):
    """A camera, microphone, lidar…; observations refer to it by name."""

    type: str
    """``camera`` or anything else a driver serves."""
    name: Name
    driver: str = "generic"
    """Who publishes it: ``opencv``, ``realsense``, ``sim``…"""
    width: Annotated[int | None, Field(gt=0)] = None
    """Pixels."""
    height: Annotated[int | None, Field(gt=0)] = None
    """Pixels."""
    fps: Annotated[float | None, Field(gt=0)] = None
    """Pictures a second."""
    frame_id: str | None = None


class JointLimit(Section):
    """Allowed range of a joint's commands, rad (m for a prismatic joint)."""

    min: float
    max: float

    @model_validator(mode="after")
    def _ordered(self) -> JointLimit:
        if self.min >= self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")
        return self


class Ros2Control(OpenSection):
    """ros2_control hardware. Names the joints where ``joints`` does not."""

    joint_names: Names = ()
    velocity_joints: Names = ()
    """Joints driven by speed, such as wheels."""
    base_vel_max_rad: Annotated[float, Field(ge=0)] = 0.0
    """Speed of ``velocity_joints`` that LeRobot calls 100, rad/s. 0: their speeds have no motor unit."""
    gripper_joints: Names = ()
    calib_file: str | None = None
    """LeRobot calibration, for policies in LeRobot's motor units. May hold ``$(env …)``."""


class TeleoperationSafety(OpenSection):
    joint_limits: Mapping[Name, JointLimit] = {}


class Teleoperation(OpenSection):
    """IB-Robot's teleoperation; its joint limits hold here too unless ``safety.joint_limits`` is given."""

    safety: TeleoperationSafety = TeleoperationSafety()
