"""Launch arguments: one table for every starter (ROS launch files, the ROS-free launcher, compose).

Each field of :class:`LaunchArguments` and :class:`EngineArguments` is an argument, with its default, choices and
description; :func:`table` lists them for whoever declares or documents them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

from robot_config.errors import LaunchArgumentError, nearest

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_TRANSPORT = (
    "How the nodes join ROS 2: dds needs no ROS; ros is rclpy; auto: ros where installed",
    "dds",
    "ros",
    "auto",
)
DEVICES = "auto, cpu, cuda, cuda:N, onnx, rknn, ascend_om, ascend_om_3403, or the name of an installed backend"


@dataclass(frozen=True)
class Argument:
    """A launch argument. ``default`` is None where it has to be given; ``choices`` is empty where anything goes."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """Description and choices, for whoever shows only one text."""
        shown = ", ".join(choice for choice in self.choices if choice)
        return f"{self.description} [{shown}]" if shown else self.description


def _argument(default: Any, description: str, *choices: str) -> Any:
    return field(default=default, metadata={"description": description, "choices": choices})


@dataclass(frozen=True)
class LaunchArguments:
    """Arguments of ``robot_config robot.launch.py`` and ``inference-service launch``."""

    robot_config: str = _argument("so101_single_arm", "Robot name (a file of robot_config/robots, without .yaml)")
    config_path: str = _argument("", "Path of a robot YAML file; overrides robot_config")
    control_mode: str = _argument("", "Control mode; empty: default_control_mode of the YAML")
    execution_mode: str = _argument(
        "", "Where the policy is computed; empty: as the YAML says", "", "monolithic", "distributed"
    )
    use_sim: bool = _argument(False, "Start the simulated robot", "true", "false")
    cloud_local: bool = _argument(
        False, "Distributed: also start the engine on this machine, for development", "true", "false"
    )
    device: str = _argument("", f"Runtime that computes the policy: {DEVICES}; empty: as the YAML's model says")
    threads: int = _argument(0, "CPU threads of that runtime; 0: its own choice")
    policy_path: str = _argument(
        "", "Policy directory; engine://: the engine sends its small files; empty: the path of the YAML's model"
    )
    with_inference: str = _argument(
        "", "Run the policy and the dispatcher; empty: as the control mode says", "", "true", "false"
    )
    use_sim_time: bool = _argument(
        False, "Take time from /clock. The simulated robot runs in real time and needs no clock", "true", "false"
    )
    transport: str = _argument("dds", *_TRANSPORT)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def parse(cls, words: Iterable[str]) -> LaunchArguments:
        """From ``key:=value`` words. Raises LaunchArgumentError with every problem."""
        return _parse(cls, words)


@dataclass(frozen=True)
class EngineArguments:
    """Arguments of ``inference_service cloud_inference.launch.py`` and ``inference-service cloud_inference``."""

    policy_path: str = _argument(None, "Policy directory; the same policy as on the device")
    device: str = _argument("auto", f"Runtime that computes the policy: {DEVICES}")
    input_topic: str = _argument("/preprocessed/batch", "Topic on which devices send batches")
    output_topic: str = _argument("/inference/action", "Topic on which actions are answered")
    threads: int = _argument(0, "CPU threads of the runtime; 0: its own choice")
    backend_options: str = _argument("", 'The runtime\'s own options as a JSON object, such as {"seed": 1}')
    transport: str = _argument("dds", *_TRANSPORT)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def parse(cls, words: Iterable[str]) -> EngineArguments:
        """From ``key:=value`` words. Raises LaunchArgumentError with every problem."""
        return _parse(cls, words)


Arguments = TypeVar("Arguments", LaunchArguments, EngineArguments)


def table(arguments: type[LaunchArguments] | type[EngineArguments]) -> tuple[Argument, ...]:
    """The arguments of a launch, as a launch file declares them."""
    return tuple(_row(f) for f in fields(arguments))


def ros_table(arguments: type[LaunchArguments] | type[EngineArguments]) -> tuple[Argument, ...]:
    """:func:`table` for launch files of ROS, which is then installed: the nodes run on it where they can."""
    return tuple(replace(row, default="auto") if row.name == "transport" else row for row in table(arguments))


def _row(declared: Field[Any]) -> Argument:
    default: Any = declared.default
    text = None if default is None else text_of(default)
    return Argument(declared.name, text, declared.metadata["description"], declared.metadata["choices"])


def describe(arguments: type[LaunchArguments] | type[EngineArguments]) -> str:
    """The arguments with defaults and descriptions, one a line, for people."""
    rows = table(arguments)
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        default = "required" if row.default is None else f"default: {row.default or 'empty'}"
        lines.append(f"  {row.name + ':=':<{width + 2}}  {row.description} ({default})")
    return "\n".join(lines)


def text_of(value: str | int | float | bool) -> str:
    """A value as it is written after ``:=``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_bool(text: str, name: str) -> bool:
    """``true`` or ``false`` in ROS's spellings. Raises LaunchArgumentError."""
    lowered = text.strip().lower()
    if lowered not in (*_TRUE, *_FALSE):
        raise LaunchArgumentError(f"{name}:={text}: expected true or false")
    return lowered in _TRUE


def _parse(arguments: type[Arguments], words: Iterable[str]) -> Arguments:
    problems: list[str] = []
    values = _split(words, problems)
    known = {f.name: f for f in fields(arguments)}
    typed: dict[str, Any] = {}
    for name, text in values.items():
        if name not in known:
            problems.append(_unknown(name, known))
            continue
        try:
            typed[name] = _typed(known[name].default, text, name)
        except LaunchArgumentError as error:
            problems.append(str(error))
    if problems:
        raise LaunchArgumentError("\n".join([*problems, "Arguments:", describe(arguments)]))
    return arguments(**typed)


def _split(words: Iterable[str], problems: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            problems.append(f"{word!r} is not understood: write key:=value")
        elif name in values:
            problems.append(f"{name}:= is given twice")
        else:
            values[name] = value
    return values


def _unknown(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return f"unknown argument {name!r}" + (f"; did you mean {close!r}?" if close else "")


def _typed(default: Any, text: str, name: str) -> Any:
    if isinstance(default, bool):
        return as_bool(text, name)
    if isinstance(default, int):
        if not text.strip().isdecimal():
            raise LaunchArgumentError(f"{name}:={text}: expected a whole number")
        return int(text)
    return text


def _check(arguments: LaunchArguments | EngineArguments) -> None:
    problems = []
    for row in table(type(arguments)):
        value = getattr(arguments, row.name)
        if value is None or (row.default is None and not value):
            problems.append(f"{row.name}:= is required: {row.description}")
        elif row.choices and text_of(value) not in row.choices:
            close = nearest(str(value), row.choices)
            hint = f"; did you mean {close!r}?" if close else ""
            allowed = ", ".join(choice or "(empty)" for choice in row.choices)
            problems.append(f"{row.name}:={value}: one of {allowed}{hint}")
    if problems:
        raise LaunchArgumentError("\n".join(problems))


def from_mapping(arguments: type[Arguments], values: Mapping[str, str]) -> Arguments:
    """From raw strings by name, as a ROS launch file has them. Raises LaunchArgumentError with every problem."""
    return _parse(arguments, [f"{name}:={value}" for name, value in values.items()])
