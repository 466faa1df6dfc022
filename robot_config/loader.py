"""Loading a robot file: YAML, fragments, schema, cross checks; every problem at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robot_config.checks import check
from robot_config.errors import ConfigError, Problem, suggest
from robot_config.explain import explain, unknown_keys
from robot_config.schema import RobotConfig
from robot_config.substitutions import expanded
from robot_config.yaml_source import Origin, Path_, Place, Source, kind_of, read_yaml

ROBOTS = Path(__file__).resolve().parent / "robots"
SEARCH_VARIABLE = "ROBOT_CONFIG_PATH"


@dataclass(frozen=True)
class Checked:
    """What a look at a file found. ``config`` is there when ``problems`` is empty."""

    config: RobotConfig | None
    problems: tuple[Problem, ...]


def load_robot_config(name_or_path: str | Path) -> RobotConfig:
    """Load a robot by name (``so101_sim``) or by the path of its YAML file.

    Names are looked up in the directories of ``$ROBOT_CONFIG_PATH`` (separated like ``$PATH``), then among the robots
    that come with the package.

    Raises:
        ConfigError: with every problem of the file, each with file, line and key.
    """
    checked = check_file(find_robot(name_or_path))
    if checked.config is None:
        raise ConfigError(checked.problems)
    return checked.config


def robot_names() -> list[str]:
    """Names that :func:`load_robot_config` knows."""
    return sorted({path.stem for directory in _directories() for path in directory.glob("*.yaml")})


def find_robot(name_or_path: str | Path) -> Path:
    """The absolute path of a robot's file.

    Raises:
        ConfigError: neither a file nor a known name.
    """
    path = expanded(str(name_or_path))
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path.absolute()
    for directory in _directories():
        candidate = directory / f"{path.name}.yaml"
        if candidate.is_file():
            return candidate.absolute()
    message = f"no robot of that name: {suggest(path.name, robot_names())} (or give the path of a .yaml file)"
    raise ConfigError([Problem(str(name_or_path), 0, "", message)])


def check_file(path: Path) -> Checked:
    """Read and check a file, collecting problems instead of raising at the first."""
    try:
        source = _flatten(read_yaml(path))
    except ConfigError as error:
        return Checked(None, error.problems)
    data = {"name": path.stem, **source.data}
    try:
        config = RobotConfig.model_validate(data)
    except ValidationError as error:
        found = [*source.problems, *explain(RobotConfig, error, source.origin), *_beyond(data, error, source.origin)]
        return Checked(None, _ordered(found))
    config.attach(source.origin)
    problems, warnings = check(config)
    if source.problems or problems:
        return Checked(None, _ordered([*source.problems, *problems]))
    config.attach_warnings(tuple(str(w) for w in _ordered(warnings)))
    return Checked(config, ())


def _directories() -> list[Path]:
    given = filter(None, os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep))
    return [*map(expanded, given), ROBOTS]


def _ordered(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: p.line))


def _flatten(source: Source) -> Source:
    """The robot's keys at the top, whether they stood under ``robot:`` or, as a fragment does, at the top."""
    data = dict(source.data)
    robot = data.pop("robot", {})
    if robot is None:
        robot = {}
    if not isinstance(robot, dict):
        raise ConfigError([source.origin.problem(("robot",), f"expected a section, found {kind_of(robot)}")])
    inside = {path[1:]: place for path, place in source.origin.places.items() if path[0] == "robot" and path[1:]}
    outside = {path: place for path, place in source.origin.places.items() if path[0] != "robot"}
    problems = list(source.problems)
    merged = _merge(robot, data, (), _Twice(source.origin.file, inside, outside, problems))
    places = {**outside, **inside}
    return Source(merged, Origin(source.origin.file, places), problems)


@dataclass(frozen=True)
class _Twice:
    """Collects values given both under ``robot:`` and at the top."""

    file: str
    inside: dict[Path_, Place]
    outside: dict[Path_, Place]
    problems: list[Problem]

    def report(self, path: Path_) -> None:
        first, second = sorted((self.inside[path], self.outside[path]), key=lambda place: place.line)
        message = f"given twice: here and as {first.key} in line {first.line}; keep one"
        self.problems.append(Problem(self.file, second.line, second.key, message))


def _merge(base: dict[str, Any], extra: dict[str, Any], path: Path_, twice: _Twice) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        here = (*path, key)
        if key not in base:
            merged[key] = value
        elif isinstance(base[key], dict) and isinstance(value, dict):
            merged[key] = _merge(base[key], value, here, twice)
        else:
            twice.report(here)
    return merged


def _beyond(data: dict[str, Any], error: ValidationError, origin: Origin) -> list[Problem]:
    """Problems that a wrong key hides: cross checks of the file as it would be with its misspelt keys put right."""
    unknown = unknown_keys(RobotConfig, error)
    if len(unknown) != error.error_count():
        return []
    for path, meant in unknown:
        data = _renamed(data, path, meant)
    places = dict(origin.places)
    places.update({(*path[:-1], meant): origin.place(path) for path, meant in unknown if meant})
    try:
        config = RobotConfig.model_validate(data)
    except ValidationError:
        return []
    config.attach(Origin(origin.file, places))
    return check(config)[0]


def _renamed(data: Any, path: Path_, meant: str | None) -> Any:
    """A copy of ``data`` whose key ``path`` is called ``meant``, or is gone."""
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        return [_renamed(item, rest, meant) if index == head else item for index, item in enumerate(data)]
    if rest:
        return {**data, head: _renamed(data[head], rest, meant)}
    found = {key: value for key, value in data.items() if key != head}
    return found if meant is None else {meant: data[head], **found}
