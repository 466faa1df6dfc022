"""Message definitions: the ``.msg``, ``.srv`` and ``.action`` files under ``msg/``, read one by one as they are needed.

Loading rosbags' whole jazzy store costs a tenth of a second in every process; reading the dozen files that a
node uses costs a few milliseconds. A type without a file here is taken from rosbags' jazzy store.

The messages that rosidl derives from a service or an action are derived here by the same rules
(https://design.ros2.org/articles/actions.html): ``T_Request``, ``T_Response``, ``T_Goal``, ``T_Result``,
``T_Feedback``, ``T_SendGoal_Request`` and so on. A service as a whole (``T``) and its introspection event
(``T_Event``) are never sent; they are here for their type hashes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import BaseDesc, Basename, Constdefs, ConstValue, Fielddefs, FieldDesc, NameDesc

from inference_service.core.errors import ProtocolError

Definition = tuple[Constdefs, Fielddefs]
"""Constants and fields of one message, as rosbags' typestore takes them."""

FOLDER = Path(__file__).parent / "msg"
_BASE_TYPES = frozenset(get_args(Basename)) - {"fixed", "float128", "wchar", "wstring"}
_LINE = re.compile(
    r"(?P<type>[A-Za-z][\w/]*)(?:<=(?P<string>\d+))?(?P<array>\[(?P<bound><=)?(?P<count>\d*)\])?"
    r"\s+(?P<name>[A-Za-z]\w*)\s*(?:=\s*(?P<value>.+))?"
)
_TYPE_NAME = re.compile(r"(?P<package>[a-z]\w*)/(?P<kind>msg|srv|action)/(?P<name>[A-Z]\w*)")
_SERVICE_PARTS = {"Request": 0, "Response": 1}
_ACTION_PARTS = {"Goal": 0, "Result": 1, "Feedback": 2}
_UUID: FieldDesc = (Nodetype.NAME, "unique_identifier_msgs/msg/UUID")
_TIME: FieldDesc = (Nodetype.NAME, "builtin_interfaces/msg/Time")


def load_definition(type_name: str) -> Definition:
    """The definition of ``pkg/msg/T``, ``pkg/srv/T_Request``, ``pkg/action/T_SendGoal_Request``…

    Raises:
        ProtocolError: no such message type, or its file does not parse.
    """
    match = _TYPE_NAME.fullmatch(type_name)
    if match is None:
        raise ProtocolError(f"{type_name!r} is no message type name: write it as package/msg/Type")
    package, kind, name = match.group("package", "kind", "name")
    if kind == "action":
        definition = _action_message(package, name)
    elif kind == "srv":
        definition = _service_message(package, name)
    else:
        definition = _part(package, "msg", name, 0)
    if definition is None:
        definition = _from_rosbags(type_name)
    return definition


def dependencies(definition: Definition) -> list[str]:
    """Names of the messages that stand in the fields of ``definition``."""
    found = []
    for _, description in definition[1]:
        inner = description[1][0] if description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else description
        if inner[0] == Nodetype.NAME:
            found.append(inner[1])
    return found


def _service_message(package: str, name: str) -> Definition | None:
    """Request, response, event, or the service as a whole."""
    base, _, part = name.rpartition("_")
    if part in _SERVICE_PARTS:
        return _part(package, "srv", base, _SERVICE_PARTS[part])
    event = part == "Event"
    base = base if event else name
    if _part(package, "srv", base, 0) is None:
        return None
    prefix = f"{package}/srv/{base}"
    return _event_fields(prefix) if event else _service_fields(prefix)


def _service_fields(prefix: str) -> Definition:
    parts = ("Request", "Response", "Event")
    return [], [(f"{part.lower()}_message", (Nodetype.NAME, f"{prefix}_{part}")) for part in parts]


def _event_fields(prefix: str) -> Definition:
    fields: Fielddefs = [("info", (Nodetype.NAME, "service_msgs/msg/ServiceEventInfo"))]
    for part in ("Request", "Response"):
        fields.append((part.lower(), (Nodetype.SEQUENCE, ((Nodetype.NAME, f"{prefix}_{part}"), 1))))
    return [], fields


def _action_message(package: str, name: str) -> Definition | None:
    """A message of an action: one of the three parts of its file, or one that wraps a part."""
    base, _, part = name.rpartition("_")
    if part in _ACTION_PARTS:
        return _part(package, "action", base, _ACTION_PARTS[part])
    for suffix, fields in _wrappers(package).items():
        if name.endswith(suffix):
            base = name[: -len(suffix)]
            known = _part(package, "action", base, 0) is not None
            return ([], [(field, _named(package, base, inner)) for field, inner in fields]) if known else None
    return None


def _wrappers(package: str) -> dict[str, list[tuple[str, FieldDesc | str]]]:
    """Fields of the messages around an action's parts; a string names the part (``Goal``…)."""
    return {
        "_SendGoal_Request": [("goal_id", _UUID), ("goal", "Goal")],
        "_SendGoal_Response": [("accepted", (Nodetype.BASE, ("bool", 0))), ("stamp", _TIME)],
        "_GetResult_Request": [("goal_id", _UUID)],
        "_GetResult_Response": [("status", (Nodetype.BASE, ("int8", 0))), ("result", "Result")],
        "_FeedbackMessage": [("goal_id", _UUID), ("feedback", "Feedback")],
    }


def _named(package: str, base: str, inner: FieldDesc | str) -> FieldDesc:
    return (Nodetype.NAME, f"{package}/action/{base}_{inner}") if isinstance(inner, str) else inner


def _part(package: str, kind: str, name: str, index: int | None) -> Definition | None:
    """Section ``index`` of the file, or None where there is no such file or section."""
    sections = _sections(package, kind, name)
    return None if index is None or index >= len(sections) else sections[index]


@cache
def _sections(package: str, kind: str, name: str) -> list[Definition]:
    path = FOLDER / package / kind / f"{name}.{kind}"
    if not path.is_file():
        return []
    return [_parse(package, section, path) for section in re.split(r"^---$", path.read_text(), flags=re.MULTILINE)]


def _parse(package: str, text: str, path: Path) -> Definition:
    """One section in the language of https://docs.ros.org/en/jazzy/Concepts/Basic/About-Interfaces.html,
    without default values (none of our files has any)."""
    constants: Constdefs = []
    fields: Fielddefs = []
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"{path}: cannot read {raw!r}: write `type name` or `type NAME=value`")
        if match["value"] is None:
            fields.append((match["name"], _field(package, match)))
        else:
            constants.append((match["name"], cast(Basename, match["type"]), _constant(match["type"], match["value"])))
    return constants, fields


def _field(package: str, match: re.Match[str]) -> FieldDesc:
    kind = match["type"]
    inner: BaseDesc | NameDesc
    if kind in _BASE_TYPES:
        inner = (Nodetype.BASE, (cast(Basename, kind), int(match["string"] or 0)))
    else:
        owner, _, name = kind.rpartition("/")
        inner = (Nodetype.NAME, f"{owner or package}/msg/{name}")
    if match["array"] is None:
        return inner
    fixed = match["count"] and not match["bound"]
    shape: Literal[Nodetype.ARRAY, Nodetype.SEQUENCE] = Nodetype.ARRAY if fixed else Nodetype.SEQUENCE
    return shape, (inner, int(match["count"] or 0))


def _constant(kind: str, text: str) -> ConstValue:
    if kind == "string":
        return text.strip("\"'")
    if kind == "bool":
        return text.lower() in ("true", "1")
    return float(text) if kind.startswith("float") else int(text, 0)


def _from_rosbags(type_name: str) -> Definition:
    # Imported here: it defines a class for each of the 450 messages of ROS 2.
    from rosbags.typesys.stores import ros2_jazzy

    found = ros2_jazzy.FIELDDEFS.get(type_name)
    if found is None:
        raise ProtocolError(f"no definition of message type {type_name!r}: put its file under {FOLDER}")
    return found
