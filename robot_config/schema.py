"""The robot file as types. Every key that the stack reads is here, with its unit, range and default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from robot_config import foreign as table
from robot_config.contract import ActionMap, Contract, make_action_map
from robot_config.errors import ConfigError, suggest
from robot_config.hardware import JointLimit, Peripheral, Ros2Control, Teleoperation
from robot_config.section import AsTuple, Encoding, Name, Names, Scalar, Section, Topic
from robot_config.substitutions import expanded, resolve, resolve_path

ExecutionMode = Literal["monolithic", "distributed"]
Positive = Annotated[float, Field(gt=0)]
DEFAULT_CONTROL_MODE = "model_inference"
DEFAULT_ENCODING = "default"
"""The key of ``inference.encodings`` that stands for every picture not named."""


class RtcConfig(Section):
    """Real-time chunking: each chunk is computed so that it continues the one being executed."""

    enabled: bool = False
    """For policies that take it (pi0, pi05, smolvla…); others go on without, which is said once."""
    execution_horizon: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Steps from the observation over which the new chunk is tied to the old one. LeRobot's default."""


class ModelConfig(Section):
    """A policy that the robot can run."""

    foreign: ClassVar[Mapping[str, str]] = table.MODEL

    path: Annotated[str, Field(min_length=1)]
    """LeRobot policy directory (``config.json``, weights, processor files). Relative paths are looked for beside this
    file, then in the current directory, then at the root of the repository. May hold ``$(env …)``, ``$(find …)``.
    ``engine://``: distributed, the device fetches what it needs (no weights) from the engine and keeps it;
    ``engine://<fingerprint>`` takes that policy alone."""
    policy_type: str | None = None
    """Model family, such as ``act``; checked against the policy's own ``config.json``."""
    device: str = "auto"
    """Runtime: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``onnx``, ``rknn``, ``ascend_om``, ``ascend_om_3403``…"""
    lerobot_norm_mode: Literal["range_m100_100", "degrees", "none"] = "range_m100_100"
    """Unit of the policy's joint values: LeRobot's motor units or ``none`` for the robot's own (rad)."""
    backend_options: Mapping[str, Scalar] = {}
    """Options of the runtime, by its own names."""
    rtc: RtcConfig = RtcConfig()
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """Start of the noise of flow and diffusion policies, for each request anew: the same observation gives the same
    actions. Left out: the engine's own (its option ``seed``, 0 where it is not set), so the same noise for each request
    then too."""


class InferenceConfig(Section):
    """Whether and where a control mode runs a policy."""

    enabled: bool = False
    force_disable: bool = False
    """Never run a policy in this mode, whatever the launch says."""
    execution_mode: ExecutionMode = "monolithic"
    """``monolithic``: this machine computes. ``distributed``: another one does (``pure_inference_node``)."""
    model: Name | None = None
    """One of ``models``."""
    action_server: Topic | None = None
    """A second name for the DispatchInfer action; ``/act_inference_node/DispatchInfer`` is always served."""
    request_timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds that the device waits for an engine's answer."""
    cloud_inference_topic: Topic = "/preprocessed/batch"
    """Distributed: batches, device to engine."""
    cloud_result_topic: Topic = "/inference/action"
    """Distributed: actions, engine to device."""
    encodings: Mapping[Name, Encoding] = {}
    """Distributed: how the pictures travel, by the policy's input; ``default`` stands for those not named.
    ``u8`` (exact, the default), ``jpeg`` or ``jpeg:90`` (lossy, about a tenth), ``f16``, ``f32``. What the engine does
    not take travels as ``u8``."""
    early_resize: bool = False
    """Distributed: where the model first fits its pictures into a smaller square (pi0, SmolVLA), do that on the device
    and send the square. It is rounded to whole pixel values, a step of 1/255 at most; left out, pictures travel as the
    policy's inputs and the actions equal monolithic mode's to the last bit."""
    device_id: Annotated[str, Field(pattern=r"^[!-~]{0,96}$")] = ""
    """Distributed: who this device is to its engine, the same after a restart and another for each device. Left out:
    derived from machine and node. The node's parameter ``device_id`` goes first."""

    @property
    def runs(self) -> bool:
        """Whether this mode runs a policy when the launch does not say."""
        return self.enabled and not self.force_disable


class ExecutorConfig(Section):
    """How the dispatcher turns chunks of actions into commands."""

    foreign: ClassVar[Mapping[str, str]] = table.EXECUTOR

    type: Literal["topic", "action"] = "topic"
    """``topic``: a command per tick, ours. ``action``: trajectories, IB-Robot's MoveIt modes."""
    mode: str | None = None
    """IB-Robot's label of the mode."""
    queue_size: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Actions that may wait."""
    watermark_threshold: Annotated[int, Field(ge=0)] = 20
    """Ask for the next chunk when this many actions or fewer are left: at least latency times control_frequency."""
    min_queue_size: Annotated[int, Field(ge=0)] = 10
    control_frequency: Annotated[float, Field(ge=0.01, le=1000)] = 20.0
    """Commands a second, one action each. Default: the contract's rate_hz, the speed the policy was trained at."""
    temporal_smoothing_enabled: bool = False
    """Blend overlapping chunks (ACT's temporal ensemble)."""
    temporal_ensemble_coeff: Annotated[float, Field(ge=-1000, le=1000)] = 0.01
    """Weight exp(-coeff * age); 0 weighs all alike."""
    real_time_priority: Annotated[int, Field(ge=0, le=99)] = 0
    """Priority of the control thread under Linux's SCHED_FIFO; 0: the ordinary scheduler. Wants a privilege."""
    cpu_affinity: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AsTuple] = ()
    """Cores that the control thread runs on, such as ``[3]``; best those that nothing else uses (``isolcpus``)."""
    chunk_size: Annotated[int, Field(ge=1)] = 100
    """IB-Robot's smoother buffer; ours takes each chunk's own size."""
    navigation_mode: bool = False
    """IB-Robot: start stopped and steer a base by services. Not served here; a launch of such a mode is refused."""


class ControlMode(Section):
    """A way to drive the robot, chosen by ``control_mode:=``."""

    foreign: ClassVar[Mapping[str, str]] = table.CONTROL_MODE

    description: str = ""
    inference: InferenceConfig = InferenceConfig()
    executor: ExecutorConfig = ExecutorConfig()


class SafetyConfig(Section):
    """What the dispatcher guarantees, whatever a policy says."""

    joint_limits: Mapping[Name, JointLimit] = {}
    """Range of each joint's commands. Default: ``teleoperation.safety.joint_limits``."""
    max_joint_velocity: Positive | None = None
    """Fastest change of a joint's command, rad/s. Left out: no limit."""
    max_action_age_s: Annotated[float | None, Field(gt=0, le=86_400)] = None
    """An action older than this (since its observation) is never sent. Left out: its chunk's duration and
    one period."""
    hold_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    """How long the last command is repeated when actions run out, before ``on_timeout``."""
    on_timeout: Literal["hold", "zeros", "stop"] = "hold"
    """Then: ``hold`` goes on repeating it, ``zeros`` sends zeros, ``stop`` sends nothing. All with an ERROR."""
    latch: bool = False
    """After a timeout stay in ``on_timeout`` until ``/action_dispatcher/reset`` is called."""


class RobotConfig(Section):
    """A robot. Load one with :func:`robot_config.load_robot_config`."""

    foreign: ClassVar[Mapping[str, str]] = table.ROBOT
    derived: ClassVar[tuple[str, ...]] = ("name",)

    name: Name
    """Default: the file's name."""
    type: str | None = None
    robot_type: str | None = None
    """LeRobot's robot type, for datasets."""
    joints: Mapping[Name, Names] = {}
    """Joint names by group. ``all`` fixes the order of states and actions; default: the groups in file order."""
    models: Mapping[Name, ModelConfig] = {}
    control_modes: Mapping[Name, ControlMode] = {}
    default_control_mode: Name = DEFAULT_CONTROL_MODE
    contract: Contract = Contract()
    safety: SafetyConfig = SafetyConfig()
    peripherals: Annotated[tuple[Peripheral, ...], AsTuple] = ()
    ros2_control: Ros2Control = Ros2Control()
    teleoperation: Teleoperation = Teleoperation()

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def complete(cls, data: dict[str, Any]) -> dict[str, Any]:
        _complete_joints(data)
        _complete_rates(data)
        _complete_limits(data)
        modes = data.get("control_modes")
        if "default_control_mode" not in data and isinstance(modes, dict) and len(modes) == 1:
            data["default_control_mode"] = next(iter(modes))
        return data

    @property
    def config_path(self) -> Path:
        """The YAML file, absolute."""
        return Path(self._origin.file)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but probably not meant, each with file, line and key."""
        return self._warnings

    def attach_warnings(self, warnings: tuple[str, ...]) -> None:
        self._warnings = warnings

    @property
    def joint_names(self) -> tuple[str, ...]:
        """All joints in the order of state and action vectors."""
        return self.joints.get("all", self.ros2_control.joint_names)

    def control_mode(self, name: str = "") -> ControlMode:
        """A control mode; the default one for an empty name or ``default``.

        Raises:
            ConfigError: there is none of that name.
        """
        chosen = self.default_control_mode if name in ("", "default") else name
        if chosen not in self.control_modes:
            raise ConfigError(
                [self.problem(f"no control mode {chosen!r}: {suggest(chosen, self.control_modes)}", "control_modes")]
            )
        return self.control_modes[chosen]

    def model(self, name: str) -> ModelConfig:
        """A model. Raises ConfigError when there is none of that name."""
        if name not in self.models:
            raise ConfigError([self.problem(f"no model {name!r}: {suggest(name, self.models)}", "models")])
        return self.models[name]

    def model_path(self, name: str) -> Path:
        """The directory (or file) of a model, absolute and existing.

        Raises:
            ConfigError: no such model, or its path is nowhere; lists every place tried.
            SubstitutionError: a ``$(…)`` in it cannot be resolved.
        """
        model = self.model(name)
        found, tried = resolve_path(model.path, self.config_path.parent, model.where("path"))
        if found is None:
            places = "\n".join(f"  {p}" for p in tried)
            raise ConfigError([model.problem(f"{model.path!r} does not exist here. Tried:\n{places}", "path")])
        return found

    def calibration_file(self) -> Path | None:
        """The LeRobot calibration file named by ``ros2_control.calib_file``; it need not exist.

        Raises:
            SubstitutionError: a ``$(…)`` in it cannot be resolved.
        """
        text = self.ros2_control.calib_file
        return expanded(resolve(text, self.ros2_control.where("calib_file"))) if text else None

    def action_map(self) -> ActionMap:
        """Where each element of an action goes, with its limits.

        Raises:
            ContractError: the contract's actions do not make up a vector.
        """
        limits = {name: (limit.min, limit.max) for name, limit in self.safety.joint_limits.items()}
        return make_action_map(self.contract, self.joint_names, limits)


def _complete_joints(data: dict[str, Any]) -> None:
    """``joints.all`` out of the groups, where it is left out."""
    joints = data.get("joints")
    if isinstance(joints, dict) and joints and "all" not in joints:
        groups = [names for names in joints.values() if isinstance(names, (list, tuple))]
        data["joints"] = {**joints, "all": list(dict.fromkeys(name for group in groups for name in group))}


def _complete_rates(data: dict[str, Any]) -> None:
    """``executor.control_frequency`` is the contract's rate, where it is left out: any other changes the speed."""
    contract, modes = data.get("contract"), data.get("control_modes")
    rate = contract.get("rate_hz") if isinstance(contract, dict) else None
    if rate is None or not isinstance(modes, dict):
        return
    completed = {}
    for name, mode in modes.items():
        executor = (mode.get("executor") or {}) if isinstance(mode, dict) else None
        if isinstance(executor, dict) and "control_frequency" not in executor:
            mode = {**mode, "executor": {**executor, "control_frequency": rate}}
        completed[name] = mode
    data["control_modes"] = completed


def _complete_limits(data: dict[str, Any]) -> None:
    """``safety.joint_limits`` is teleoperation's, where it is left out."""
    teleoperation, safety = data.get("teleoperation"), data.get("safety", {})
    limits = teleoperation.get("safety") if isinstance(teleoperation, dict) else None
    limits = limits.get("joint_limits") if isinstance(limits, dict) else None
    if isinstance(limits, dict) and isinstance(safety, dict) and safety.get("joint_limits") is None:
        data["safety"] = {**safety, "joint_limits": limits}
