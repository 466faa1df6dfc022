"""A YAML file as plain data, remembering the line of every key, and refusing duplicate keys.

Differences from ``yaml.safe_load``: mapping keys are always their text (``1:`` and ``"1":`` are the same key),
numbers such as ``1e-3`` are numbers (YAML 1.2), lists and nesting are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from robot_config.errors import ConfigError, Problem

Path_ = tuple["str | int", ...]
"""Where a value stands: mapping keys and list indices from the top of the file."""

MAX_NODES = 20_000
MAX_DEPTH = 60
MAX_BYTES = 1_000_000
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Place:
    """A line of the file and the dotted key as it stands there."""

    line: int
    key: str


@dataclass(frozen=True)
class Origin:
    """Where the values of a configuration were written."""

    file: str
    places: Mapping[Path_, Place] = field(default_factory=dict)

    def place(self, path: Path_) -> Place:
        """The place of ``path``, or of the innermost part of it that the file holds."""
        for length in range(len(path), 0, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return Place(found.line, found.key + dotted(path[length:], inner=True))
        return Place(0, dotted(path))

    def has(self, path: Path_) -> bool:
        """Whether ``path`` was written in the file (and not filled in)."""
        return path in self.places

    def problem(self, path: Path_, message: str) -> Problem:
        place = self.place(path)
        return Problem(self.file, place.line, place.key, message)

    def where(self, path: Path_) -> str:
        """``file:line`` of ``path``, for a message."""
        line = self.place(path).line
        return f"{self.file}:{line}" if line else self.file


@dataclass
class Source:
    """What a file holds: data, origin, and what was wrong with it as YAML."""

    data: dict[str, Any]
    origin: Origin
    problems: list[Problem]


def dotted(path: Iterable[str | int], *, inner: bool = False) -> str:
    """``contract.observations[2].topic``; with ``inner`` a leading dot where one is needed."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text if inner else text.removeprefix(".")


def read_yaml(path: Path) -> Source:
    """Read ``path``, a mapping at its top.

    Raises:
        ConfigError: not readable, not YAML, or not a mapping. Duplicate keys are ``problems`` of the result.
    """
    file = str(path)
    loader = _Loader(_text(path))
    walker = _Walker(loader, file)
    try:
        node = loader.get_single_node()
        data = None if node is None else walker.value(node, (), 0)
    except RecursionError:
        raise ConfigError([Problem(file, 0, "", "not valid YAML: too deeply nested")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not valid YAML: {error.problem or error.context}"
        raise ConfigError([Problem(file, mark.line + 1 if mark else 0, "", message)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(file, 0, "", f"not valid YAML: {error}")]) from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigError([Problem(file, 1, "", f"expected a mapping at the top, found {kind_of(data)}")])
    return Source(data, Origin(file, walker.places), walker.problems)


def _text(path: Path) -> str:
    """Raises ConfigError for anything but a file of text of a size that a robot file may have."""
    file = str(path)
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise ConfigError([Problem(file, 0, "", "cannot be read: it is not a file")])
        if status.st_size > MAX_BYTES:
            raise ConfigError([Problem(file, 0, "", f"{status.st_size} bytes: a robot file has {MAX_BYTES} at most")])
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(file, 0, "", "no such file")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file, 0, "", f"cannot be read: {error}: save it as UTF-8")]) from error
    except OSError as error:
        raise ConfigError([Problem(file, 0, "", f"cannot be read: {error}")]) from error


def kind_of(value: Any) -> str:
    """What a YAML value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, (int, float)):
        return f"the number {_shortened(str(value))}"
    return f"the text {_shortened(value)!r}" if isinstance(value, str) else f"{value} ({type(value).__name__})"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


class _Walker:
    """Turns nodes into values, noting the line of each."""

    def __init__(self, loader: _Loader, file: str) -> None:
        self._loader = loader
        self._file = file
        self._count = 0
        self.places: dict[Path_, Place] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="too large or too deeply nested", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path, depth)
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # YAML takes it for a number or a date by its looks
            kind = node.tag.rpartition(":")[2]
            problem = f"{_shortened(str(node.value))} looks like a value of type {kind} and is none: put text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    def _sequence(self, node: yaml.SequenceNode, path: Path_, depth: int) -> list[Any]:
        found = []
        for index, child in enumerate(node.value):
            here = (*path, index)
            self.places[here] = Place(child.start_mark.line + 1, dotted(here))
            found.append(self.value(child, here, depth + 1))
        return found

    def _mapping(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        found = self._merged(node, path, depth)
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key, line = self._key(key_node), key_node.start_mark.line + 1
            here = (*path, key)
            if key in lines:
                message = f"given twice: here and in line {lines[key]}; keep one"
                self.problems.append(Problem(self._file, line, dotted(here), message))
                continue
            lines[key] = line
            self.places[here] = Place(line, dotted(here))
            found[key] = self.value(value_node, here, depth + 1)
        return found

    def _merged(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        """What ``<<: *anchor`` brings; keys given beside it replace these."""
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for source in reversed(sources):
                if not isinstance(source, yaml.MappingNode):
                    raise yaml.MarkedYAMLError(problem="<< needs a mapping", problem_mark=source.start_mark)
                found.update(self.value(source, path, depth + 1))
        return found

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=node.start_mark)
        return str(node.value)
