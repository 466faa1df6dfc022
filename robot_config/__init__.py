"""The robot as a typed file: schema, loader, contract, and the plan of processes that a launch starts."""

from __future__ import annotations

from robot_config.contract import (
    ActionChannel,
    ActionMap,
    ActionSpec,
    Align,
    Contract,
    ImageConfig,
    ObservationSpec,
    Publish,
    Qos,
    SensorQos,
)
from robot_config.errors import (
    ConfigError,
    ContractError,
    LaunchArgumentError,
    Problem,
    RobotConfigError,
    SubstitutionError,
)
from robot_config.hardware import JointLimit, Peripheral
from robot_config.loader import load_robot_config, robot_names
from robot_config.schema import (
    ControlMode,
    ExecutorConfig,
    InferenceConfig,
    ModelConfig,
    RobotConfig,
    SafetyConfig,
)

__all__ = [
    "ActionChannel",
    "ActionMap",
    "ActionSpec",
    "Align",
    "ConfigError",
    "Contract",
    "ContractError",
    "ControlMode",
    "ExecutorConfig",
    "ImageConfig",
    "InferenceConfig",
    "JointLimit",
    "LaunchArgumentError",
    "ModelConfig",
    "ObservationSpec",
    "Peripheral",
    "Problem",
    "Publish",
    "Qos",
    "RobotConfig",
    "RobotConfigError",
    "SafetyConfig",
    "SensorQos",
    "SubstitutionError",
    "load_robot_config",
    "robot_names",
]
