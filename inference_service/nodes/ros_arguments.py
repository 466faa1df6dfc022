"""The command line of a node: ``key:=value`` words, plain or as ROS 2 writes them.

``ros2 launch`` starts ``EXECUTABLE --ros-args -r __node:=NAME [-r __ns:=/NS] [-p KEY:=YAML]… --params-file FILE``.
Meaning as in rcl: of two sources of a parameter the later wins, and a section (or ``-p NODE:KEY:=…``) that names the
node wins over a wildcard. A section's key may hold ``*`` (one token) and ``**`` (any number).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from inference_service.core.errors import InferenceServiceError

_ANY = "/**"
_SECTION = "ros__parameters"
_VALUE_FLAGS = {
    "-p": "param",
    "--param": "param",
    "--params-file": "file",
    "-r": "remap",
    "--remap": "remap",
    "--log-level": "level",
    "-e": "ignored",
    "--enclave": "ignored",
    "--log-config-file": "ignored",
}
_PLAIN_FLAGS = ("--ros-args", "--")
_SWITCH = re.compile(r"--(enable|disable)-(rosout|stdout|external-lib)-logs")
_OF_EVERY_ROS_NODE = re.compile(r"qos_overrides\..*|start_type_description_service")
"""Parameters that ROS's own nodes take, so that shared parameter files hold them; they mean nothing here."""


class ParameterError(InferenceServiceError):
    """A parameter is unknown, missing or has a wrong value."""

    wire_name = "parameter"


@dataclass(frozen=True)
class _Rule:
    """Parameters for the nodes that ``pattern`` matches."""

    pattern: str
    values: Mapping[str, str]

    @property
    def exact(self) -> bool:
        return "*" not in self.pattern

    def applies(self, full_name: str) -> bool:
        """Whether a node of this full name (``/ns/name``) is meant; a bare name means a node in any namespace."""
        if self.pattern == _ANY:
            return True
        if "/" not in self.pattern:
            return full_name.rpartition("/")[2] == self.pattern
        rooted = "/" + self.pattern.strip("/")
        regex = rooted.replace("/**", r"(/\w+)*").replace("/*", r"/\w+")
        return re.fullmatch(regex, full_name) is not None


@dataclass
class _Given:
    rules: list[_Rule] = field(default_factory=list)
    remaps: list[tuple[str, str, str]] = field(default_factory=list)
    """(node or empty, what, new name)."""
    levels: list[tuple[str, str]] = field(default_factory=list)
    """(logger or empty, level)."""


def parse_arguments(argv: Sequence[str], default_name: str = "") -> dict[str, str]:
    """The words as a mapping of raw strings by parameter name.

    Understood: ``key:=value``, ``--ros-args``, ``-p``, ``--params-file``, ``-r __node:=NAME``, ``-r __ns:=/NS``
    (parameter ``namespace``) and ``--log-level`` (parameter ``log_level``). ROS's switches for its own logging and
    security are accepted without effect. ``default_name`` is the node's name where none is given.

    Raises:
        ParameterError: a word that is none of these, or a parameter file that cannot be read.
    """
    given = _collect(argv)
    values: dict[str, str] = {}
    for rule in given.rules:
        values.update(rule.values if rule.pattern == _ANY else {})
    names = _names(given, values.get("node_name", default_name))
    called = {"namespace": "/", "node_name": default_name, **values, **names}
    full_name = f"{called['namespace'].rstrip('/')}/{called['node_name']}"
    applying = [rule for rule in given.rules if rule.applies(full_name)]
    for rule in sorted(applying, key=lambda rule: rule.exact):
        values.update(rule.values)
    for logger, level in given.levels:
        if logger in ("", full_name.rpartition("/")[2], full_name.strip("/").replace("/", ".")):
            values["log_level"] = level
    return {**values, **names}


def _collect(argv: Sequence[str]) -> _Given:
    given = _Given()
    words = iter(argv)
    for word in words:
        if word in _PLAIN_FLAGS or _SWITCH.fullmatch(word):
            continue
        if word in _VALUE_FLAGS:
            value = next(words, None)
            if value is None:
                raise ParameterError(f"{word} needs a value after it")
            _take(given, _VALUE_FLAGS[word], value)
        elif ":=" in word and not word.startswith("-"):
            key, _, text = word.partition(":=")
            given.rules.append(_Rule(_ANY, {key: text}))
        else:
            raise ParameterError(f"argument {word!r} is not understood: write key:=value")
    return given


def _take(given: _Given, kind: str, value: str) -> None:
    if kind == "file":
        given.rules += _read_file(Path(value))
    elif kind == "level":
        logger, _, level = value.rpartition(":=")
        given.levels.append((logger, level))
    elif kind != "ignored":
        left, separator, right = value.partition(":=")
        if not separator or not left:
            raise ParameterError(f"{value!r} is not understood: write NAME:=VALUE after -p or -r")
        node, _, name = left.rpartition(":")
        if kind == "remap":
            given.remaps.append((node, name, right))
        elif not _OF_EVERY_ROS_NODE.fullmatch(name):
            given.rules.append(_Rule(node or _ANY, {name: _yaml_text(right)}))


def _names(given: _Given, default_name: str) -> dict[str, str]:
    """``node_name`` and ``namespace`` as remapping rules set them; the first rule that applies counts, as in rcl."""
    keys = {"__node": "node_name", "__name": "node_name", "__ns": "namespace"}
    names: dict[str, str] = {}
    for node, what, new in given.remaps:
        if what not in keys:
            raise ParameterError(f"remapping {what!r} is not supported: set the topic's parameter instead")
        if node in ("", default_name):
            names.setdefault(keys[what], new)
    return names


def _read_file(path: Path) -> list[_Rule]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"parameter file {path}: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ParameterError(f"parameter file {path}: expected node names with {_SECTION} below them")
    return list(_sections(path, "", tree or {}))


def _sections(path: Path, prefix: str, tree: Mapping[Any, Any]) -> Iterator[_Rule]:
    for key, value in tree.items():
        name = f"{prefix}/{str(key).strip('/')}" if prefix else str(key)
        if not isinstance(value, dict):
            raise ParameterError(f"parameter file {path}: {name}: expected {_SECTION} below it, found {value!r:.40}")
        if _SECTION in value:
            yield _Rule(name, _section(path, name, value[_SECTION]))
        yield from _sections(path, name, {k: v for k, v in value.items() if k != _SECTION})


def _section(path: Path, name: str, section: Any) -> dict[str, str]:
    if section is not None and not isinstance(section, dict):
        raise ParameterError(f"parameter file {path}: {name}: {_SECTION} holds no parameters but {section!r:.40}")
    values = {}
    for key, value in (section or {}).items():
        if _OF_EVERY_ROS_NODE.fullmatch(str(key)) or key == "qos_overrides":
            continue
        if isinstance(value, (dict, list)):
            raise ParameterError(f"parameter file {path}: {name}: {key}: expected one value, found {value!r:.40}")
        values[str(key)] = _text(value)
    return values


def _yaml_text(text: str) -> str:
    """A value of ``-p``, which is YAML: quotes and the document's end (``…\\n...``) are not part of it."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str) else text.partition("\n")[0].strip()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
