"""The plan: which processes a launch starts, with which parameters. Everyone who starts nodes asks here.

A plan is a pure function of the robot's file and the launch arguments (files are looked at, nothing is started).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robot_config.arguments import (
    Argument,
    EngineArguments,
    LaunchArguments,
    describe,
    from_mapping,
    ros_table,
    table,
    text_of,
)
from robot_config.errors import LaunchArgumentError
from robot_config.loader import load_robot_config
from robot_config.schema import ControlMode, InferenceConfig, ModelConfig, RobotConfig
from robot_config.substitutions import resolve_path

__all__ = [
    "Argument",
    "EngineArguments",
    "LaunchArguments",
    "Plan",
    "ProcessSpec",
    "describe",
    "from_mapping",
    "make_engine_plan",
    "make_plan",
    "plan_launch",
    "ros_table",
    "table",
]

PACKAGE = "inference_service"
DEVICE_NODE = "act_inference_node"
ENGINE_NODE = "pure_inference"
DISPATCHER_NODE = "action_dispatcher"
SIM_NODE = "sim_robot"
ACTION_SERVER = f"/{DEVICE_NODE}/DispatchInfer"
"""IB-Robot's dispatcher and ours call this name, whatever the YAML's ``action_server`` says."""

FETCHED = "engine://"
"""As a model's path: the device fetches the policy's small files from the engine."""

Value = str | int | float | bool


@dataclass(frozen=True)
class ProcessSpec:
    """A node to start: ROS package, executable, node name, parameters."""

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Value]

    def words(self) -> list[str]:
        """Executable and parameters as ``key:=value`` words."""
        return [self.executable, *(f"{key}:={text_of(value)}" for key, value in self.parameters.items())]


@dataclass(frozen=True)
class Plan:
    """Processes in the order to start them, and what the person who launches should know."""

    processes: tuple[ProcessSpec, ...]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = []
        for process in self.processes:
            lines.append(f"{process.name} ({process.package} {process.executable})")
            lines += [f"    {key}: {text_of(value)}" for key, value in process.parameters.items()]
        return "\n".join([*lines, *self.notes])


def plan_launch(arguments: LaunchArguments) -> Plan:
    """Load the robot that the arguments name and plan its launch. Raises as loading and :func:`make_plan` do."""
    return make_plan(load_robot_config(arguments.config_path or arguments.robot_config), arguments)


def make_plan(cfg: RobotConfig, arguments: LaunchArguments) -> Plan:
    """What to start for a robot.

    Monolithic: the device node computes on ``device``. Distributed: the device node never loads a model; the engine
    is started here with ``cloud_local``, else a note holds the command for the other machine.

    Raises:
        ConfigError: no such control mode or model, or the policy is not here.
        ContractError: the contract's actions cannot drive the robot.
        LaunchArgumentError: the mode cannot be launched this way.
    """
    name = arguments.control_mode if arguments.control_mode not in ("", "default") else cfg.default_control_mode
    mode = cfg.control_mode(name)
    processes = [_simulator(cfg, arguments)] if arguments.use_sim else []
    notes = list(cfg.warnings)
    if not _wants_inference(name, mode, arguments):
        notes.append(f"Control mode {name!r} runs no policy: no inference and no dispatcher are started.")
        return Plan(tuple(processes), tuple(notes))
    _refuse_unserved(cfg, name, mode)
    policy = _policy_path(cfg, mode, arguments)
    distributed = (arguments.execution_mode or mode.inference.execution_mode) == "distributed"
    if policy.startswith(FETCHED):
        _refuse_unfetched(policy, distributed, arguments)
    if distributed and arguments.cloud_local:
        processes.append(_local_engine(cfg, mode.inference, policy, arguments))
    elif distributed:
        notes.append(_other_machine(cfg, mode.inference, policy, arguments))
    elif arguments.cloud_local:
        notes.append("cloud_local has no effect in monolithic mode; add execution_mode:=distributed.")
    processes.append(_device(cfg, name, mode.inference, policy, arguments, distributed))
    processes.append(_dispatcher(cfg, name, mode, arguments))
    return Plan(tuple(processes), tuple(notes))


def make_engine_plan(arguments: EngineArguments) -> Plan:
    """What to start on the machine that computes.

    Raises:
        LaunchArgumentError: the policy directory is not there.
    """
    policy = _existing(arguments.policy_path)
    return Plan((_engine(str(policy), arguments),))


def _wants_inference(name: str, mode: ControlMode, arguments: LaunchArguments) -> bool:
    if arguments.with_inference == "true" and mode.inference.force_disable:
        where = mode.inference.where("force_disable")
        raise LaunchArgumentError(f"with_inference:=true, but {where} says force_disable for control mode {name!r}")
    return mode.inference.runs if arguments.with_inference == "" else arguments.with_inference == "true"


def _refuse_unserved(cfg: RobotConfig, name: str, mode: ControlMode) -> None:
    executor = mode.executor
    if executor.type != "topic":
        where = executor.where("type")
        raise LaunchArgumentError(
            f"{where}: control mode {name!r} is driven by trajectories; a policy needs type: topic"
        )
    if executor.navigation_mode:
        raise LaunchArgumentError(
            f"{executor.where('navigation_mode')}: navigation_mode starts stopped and steers a base by services, "
            "which this dispatcher does not do; choose another control_mode or remove the key"
        )
    cfg.action_map()


def _policy_path(cfg: RobotConfig, mode: ControlMode, arguments: LaunchArguments) -> str:
    if arguments.policy_path:
        fetched = arguments.policy_path.startswith(FETCHED)
        return arguments.policy_path if fetched else str(_existing(arguments.policy_path))
    model = mode.inference.model
    if model is None or not cfg.models:
        missing = "no `model:`" if model is None else f"model {model!r} is named, but there is no `models:` section"
        raise LaunchArgumentError(f"{mode.inference.where('model')}: {missing}; add it or give policy_path:=…")
    path = cfg.model(model).path
    return path if path.startswith(FETCHED) else str(cfg.model_path(model))


def _refuse_unfetched(policy: str, distributed: bool, arguments: LaunchArguments) -> None:
    """A policy that the engine sends has to be on another process's disk."""
    if not distributed:
        raise LaunchArgumentError(
            f"{policy} takes the policy's files from the engine: add execution_mode:=distributed, or give the policy's "
            "directory (policy_path:=…)"
        )
    if arguments.cloud_local:
        raise LaunchArgumentError(
            f"{policy} takes the policy's files from the engine, and cloud_local:=true starts that engine here: give "
            "the policy's directory (policy_path:=…)"
        )


def _existing(text: str) -> Path:
    found, tried = resolve_path(text, Path.cwd(), "policy_path")
    if found is None:
        places = "\n".join(f"  {p}" for p in tried)
        raise LaunchArgumentError(f"policy_path:={text} does not exist here. Tried:\n{places}")
    return found


def _runtime(cfg: RobotConfig, inference: InferenceConfig, arguments: LaunchArguments) -> str:
    """The device asked for: the launch's, else the model's."""
    model = cfg.models.get(inference.model or "")
    return arguments.device or (model.device if model else "auto")


def _options(cfg: RobotConfig, inference: InferenceConfig) -> str:
    """The options that the model hands to its runtime, as the engine takes them."""
    model = cfg.models.get(inference.model or "")
    return json.dumps(dict(model.backend_options)) if model and model.backend_options else ""


def _common(node_name: str, arguments: LaunchArguments) -> dict[str, Value]:
    return {"node_name": node_name, "use_sim_time": arguments.use_sim_time, "transport": arguments.transport}


def _simulator(cfg: RobotConfig, arguments: LaunchArguments) -> ProcessSpec:
    parameters = {**_common(SIM_NODE, arguments), "robot_config_path": str(cfg.config_path)}
    return ProcessSpec(PACKAGE, "sim_robot", SIM_NODE, parameters)


def _device(
    cfg: RobotConfig, name: str, inference: InferenceConfig, policy: str, arguments: LaunchArguments, distributed: bool
) -> ProcessSpec:
    model = cfg.models.get(inference.model or "")
    parameters: dict[str, Value] = {
        **_common(DEVICE_NODE, arguments),
        "checkpoint": policy,
        "robot_config_path": str(cfg.config_path),
        "control_mode": name,
        "lerobot_norm_mode": model.lerobot_norm_mode
        if model
        else ModelConfig.model_fields["lerobot_norm_mode"].default,
        "device": "cpu" if distributed else _runtime(cfg, inference, arguments),
        "threads": arguments.threads,
        "execution_mode": "distributed" if distributed else "monolithic",
        "request_timeout": inference.request_timeout,
        "cloud_inference_topic": inference.cloud_inference_topic,
        "cloud_result_topic": inference.cloud_result_topic,
    }
    return ProcessSpec(PACKAGE, "lerobot_policy_node", DEVICE_NODE, parameters)


def _dispatcher(cfg: RobotConfig, name: str, mode: ControlMode, arguments: LaunchArguments) -> ProcessSpec:
    parameters: dict[str, Value] = {
        **_common(DISPATCHER_NODE, arguments),
        "robot_config_path": str(cfg.config_path),
        "control_mode": name,
        "inference_action_server": ACTION_SERVER,
        "queue_size": mode.executor.queue_size,
        "watermark_threshold": mode.executor.watermark_threshold,
        "control_frequency": mode.executor.control_frequency,
    }
    return ProcessSpec(PACKAGE, "action_dispatcher_node", DISPATCHER_NODE, parameters)


def _local_engine(cfg: RobotConfig, inference: InferenceConfig, policy: str, arguments: LaunchArguments) -> ProcessSpec:
    engine = EngineArguments(
        policy_path=policy,
        device=_runtime(cfg, inference, arguments),
        input_topic=inference.cloud_inference_topic,
        output_topic=inference.cloud_result_topic,
        threads=arguments.threads,
        backend_options=_options(cfg, inference),
        transport=arguments.transport,
    )
    return _engine(policy, engine)


def _engine(policy: str, arguments: EngineArguments) -> ProcessSpec:
    parameters: dict[str, Value] = {
        "node_name": ENGINE_NODE,
        "use_sim_time": False,
        "transport": arguments.transport,
        "policy_path": policy,
        "device": arguments.device,
        "input_topic": arguments.input_topic,
        "output_topic": arguments.output_topic,
        "threads": arguments.threads,
        "backend_options": arguments.backend_options,
    }
    return ProcessSpec(PACKAGE, "pure_inference_node", ENGINE_NODE, parameters)


def _other_machine(cfg: RobotConfig, inference: InferenceConfig, policy: str, arguments: LaunchArguments) -> str:
    there = "POLICY_DIRECTORY" if policy.startswith(FETCHED) else policy
    words = {"policy_path": there, "device": _runtime(cfg, inference, arguments)}
    more = {
        "input_topic": inference.cloud_inference_topic,
        "output_topic": inference.cloud_result_topic,
        "backend_options": _options(cfg, inference),
    }
    defaults = {row.name: row.default for row in table(EngineArguments)}
    words.update({name: value for name, value in more.items() if value != defaults[name]})
    tail = " ".join(shlex.quote(f"{name}:={value}") for name, value in words.items())
    return (
        "No engine is started here. On the machine that computes (same ROS_DOMAIN_ID, same policy) run one of\n"
        f"  inference-service cloud_inference {tail}\n"
        f"  ros2 launch inference_service cloud_inference.launch.py {tail}\n"
        "or add cloud_local:=true to start it on this machine."
    )
