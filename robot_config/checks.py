"""Cross checks: names that refer to each other, and numbers that only make sense together.

A section that is absent altogether is no problem here, since a fragment of a robot file is a valid file; whatever
starts a robot asks for what it needs then. What is there has to be consistent. Where no control mode runs a policy,
a contract that no policy could use is a warning: it is not our robot to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator

from robot_config.contract import JOINT_STATE, PICTURES, ActionMap, ObservationSpec
from robot_config.errors import ContractError, Problem, nearest, suggest
from robot_config.schema import DEFAULT_ENCODING, ControlMode, RobotConfig

_STATE_FIELDS = ("position", "velocity", "effort")


def check(cfg: RobotConfig) -> tuple[list[Problem], list[Problem]]:
    """(problems, warnings) of a robot whose every section is valid in itself."""
    runs = any(mode.inference.runs for mode in cfg.control_modes.values())
    problems = [*_joints(cfg), *_modes(cfg), *_references(cfg), *_peripherals(cfg), *_safety_names(cfg)]
    problems += _encodings(cfg)
    warnings = [*_rates(cfg)]
    if runs:
        warnings += [*_unlimited(cfg), *_fragments(cfg)]
    (problems if runs else warnings).extend([*_selectors(cfg), *_latched(cfg), *_actions(cfg)])
    return problems, warnings


def _joints(cfg: RobotConfig) -> Iterator[Problem]:
    every = cfg.joints.get("all", ())
    for group, names in cfg.joints.items():
        for index, name in enumerate(names):
            if name in names[:index]:
                yield cfg.problem(f"joint {name!r} is named twice", "joints", group, index)
            elif name not in every:
                message = f"joint {name!r} is not in joints.all: {suggest(name, every)}"
                yield cfg.problem(message, "joints", group, index)


def _modes(cfg: RobotConfig) -> Iterator[Problem]:
    modes, default = cfg.control_modes, cfg.default_control_mode
    if modes and default not in modes:
        if cfg.was_written("default_control_mode"):
            yield cfg.problem(f"no control mode {default!r}: {suggest(default, modes)}", "default_control_mode")
        else:
            message = f"add default_control_mode: one of {', '.join(modes)}"
            yield cfg.problem(message, "control_modes")
    for mode in modes.values():
        if mode.inference.runs:
            yield from _inference_mode(cfg, mode)


def _inference_mode(cfg: RobotConfig, mode: ControlMode) -> Iterator[Problem]:
    inference, executor = mode.inference, mode.executor
    if inference.model is None:
        yield inference.problem(f"enabled, but no `model:` ({suggest('', cfg.models)})")
    if executor.type != "topic":
        yield executor.problem("a mode that runs a policy sends commands by topic: write type: topic", "type")
    if executor.watermark_threshold >= executor.queue_size:
        message = f"{executor.watermark_threshold} is not below queue_size {executor.queue_size}"
        yield executor.problem(f"{message}: every tick would ask for a new chunk", "watermark_threshold")


def _encodings(cfg: RobotConfig) -> Iterator[Problem]:
    """An encoding is for an input of the contract that is a picture."""
    if not cfg.was_written("contract"):
        return
    given = [spec.key for spec in cfg.contract.observations if spec.type in PICTURES]
    for mode in cfg.control_modes.values():
        for key in mode.inference.encodings:
            if key != DEFAULT_ENCODING and key not in given:
                message = f"no picture {key!r} among contract.observations: {suggest(key, [*given, DEFAULT_ENCODING])}"
                yield mode.inference.problem(message, "encodings", key)


def _references(cfg: RobotConfig) -> Iterator[Problem]:
    for mode in cfg.control_modes.values():
        model = mode.inference.model
        if model is not None and cfg.models and model not in cfg.models:
            yield mode.inference.problem(f"no model {model!r} under models: {suggest(model, cfg.models)}", "model")


def _peripherals(cfg: RobotConfig) -> Iterator[Problem]:
    names = [p.name for p in cfg.peripherals]
    for index, peripheral in enumerate(cfg.peripherals):
        if peripheral.name in names[:index]:
            yield peripheral.problem(f"peripheral {peripheral.name!r} is defined twice", "name")
    for spec in cfg.contract.observations:
        if spec.peripheral is not None and spec.peripheral not in names:
            message = f"no peripheral {spec.peripheral!r} under peripherals: {suggest(spec.peripheral, names)}"
            yield spec.problem(message, "peripheral")


def _selectors(cfg: RobotConfig) -> Iterator[Problem]:
    """Joints that a JointState's selector names have to exist."""
    hardware = cfg.ros2_control
    known = list(dict.fromkeys((*cfg.joint_names, *hardware.joint_names, *hardware.velocity_joints)))
    for spec in cfg.contract.observations:
        if spec.type == JOINT_STATE and known:
            yield from _selector(spec, known)


def _latched(cfg: RobotConfig) -> Iterator[Problem]:
    """What a publisher kept from long ago arrives at the start: by the time of arrival it would be fresh."""
    for spec in cfg.contract.observations:
        if spec.qos.durability == "transient_local" and spec.align.stamp == "receive":
            message = (
                "transient_local gives the last message of long ago, and align.stamp: receive would count it as fresh: "
                "write durability: volatile, or align.stamp: header"
            )
            yield spec.problem(message, "qos", "durability")


def _selector(spec: ObservationSpec, known: list[str]) -> Iterator[Problem]:
    if spec.selector is None:
        yield spec.problem("a JointState needs `selector: {names: [position.<joint>, …]}` for its order")
        return
    wrong = []
    for name in spec.selector.names:
        field, dot, joint = name.rpartition(".")
        close = nearest(joint, known)
        if dot and field not in _STATE_FIELDS:
            wrong.append(f"{name} (a JointState has {', '.join(_STATE_FIELDS)})")
        elif joint not in known:
            wrong.append(f"{name} (did you mean {close}?)" if close else name)
    if wrong:
        message = f"no such joint: {', '.join(wrong)}; joints.all has {', '.join(known)}"
        yield spec.problem(message, "selector", "names")


def _actions(cfg: RobotConfig) -> Iterator[Problem]:
    if not cfg.was_written("contract"):
        return
    try:
        actions = cfg.action_map()
    except ContractError as error:
        yield error.problem or cfg.contract.problem(str(error), "actions")
        return
    lost = cfg.joint_names[actions.dim :]
    if lost:
        message = f"the actions cover {actions.dim} of {len(cfg.joint_names)} joints; nothing moves {', '.join(lost)}"
        yield cfg.contract.problem(message, "actions")


def _safety_names(cfg: RobotConfig) -> Iterator[Problem]:
    if not cfg.was_written("safety", "joint_limits") or not cfg.joint_names:
        return
    for name in cfg.safety.joint_limits:
        if name not in cfg.joint_names:
            message = f"no joint {name!r} in joints.all: {suggest(name, cfg.joint_names)}"
            yield cfg.safety.problem(message, "joint_limits", name)


def _rates(cfg: RobotConfig) -> Iterator[Problem]:
    """A dispatcher that runs at another rate than the data were recorded at plays the policy at another speed."""
    rate = cfg.contract.rate_hz
    for mode in cfg.control_modes.values():
        frequency = mode.executor.control_frequency
        if mode.inference.runs and frequency != rate:
            message = (
                f"{frequency:g} Hz, but contract.rate_hz is {rate:g}: the robot moves {frequency / rate:.3g} times as "
                "fast as the policy was trained for; make both the same"
            )
            yield mode.executor.problem(message, "control_frequency")


def _unlimited(cfg: RobotConfig) -> Iterator[Problem]:
    free = [name for name in cfg.joint_names if name not in cfg.safety.joint_limits]
    if free:
        message = f"no joint limits for {', '.join(free)}: their commands are only checked for being finite"
        yield cfg.problem(message, "safety", "joint_limits")
    actions = _action_map(cfg)
    extra = [f"action.{i}" for i, joint in enumerate(actions.joints) if joint is None] if actions else []
    if extra and cfg.joint_names:
        message = f"joints.all has no joint for {', '.join(extra)}: no joint limits apply there"
        yield cfg.contract.problem(message, "actions")


def _action_map(cfg: RobotConfig) -> ActionMap | None:
    try:
        return cfg.action_map()
    except ContractError:  # reported as a problem by _actions
        return None


def _fragments(cfg: RobotConfig) -> Iterator[Problem]:
    for section in ("models", "contract"):
        if not cfg.was_written(section):
            yield cfg.problem(f"no `{section}:` section; a mode that runs a policy needs one to be launched")
