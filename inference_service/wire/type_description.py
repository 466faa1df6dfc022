"""Descriptions of message types as ROS 2 exchanges them (REP 2016), from the definitions of this package."""

from __future__ import annotations

from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import FieldDesc
from rosbags.typesys.store import TIDMAP

from inference_service.core.errors import ProtocolError
from inference_service.wire.definitions import FOLDER, dependencies, load_definition
from inference_service.wire.interfaces import new_message, type_hash

SERVICE = "type_description_interfaces/srv/GetTypeDescription"
_MSG = "type_description_interfaces/msg"
# ``FieldType``: how far the ids of arrays and sequences are from those of their elements.
_NESTED, _ARRAY, _BOUNDED, _SEQUENCE = 1, 48, 96, 144
_EMPTY: FieldDesc = (Nodetype.BASE, ("uint8", 0))


def describe_type(type_name: str) -> Any:
    """``type_description_interfaces/msg/TypeDescription`` of a message, service or action, with all that it is made of.

    Raises:
        ProtocolError: no definition of that type.
    """
    found = {name: _individual(name) for name in sorted(_within(type_name, set()))}
    own = found.pop(type_name)
    return new_message(
        f"{_MSG}/TypeDescription", type_description=own, referenced_type_descriptions=list(found.values())
    )


def answer_type_request(request: Any) -> Any:
    """The answer to a ``GetTypeDescription_Request``: a type is known by its hash, whatever else it is called."""
    known = type_hash(request.type_name)
    try:
        described = describe_type(request.type_name)
    except ProtocolError:  # an action as a whole has a hash only
        known = None
    if known is None or request.type_hash not in ("", known):
        reason = f"no type {request.type_name!r} with hash {request.type_hash!r} in this node, it knows {known}"
        return new_message(f"{SERVICE}_Response", failure_reason=reason)
    names = [described.type_description.type_name]
    names += [one.type_name for one in described.referenced_type_descriptions]
    sources = [_source(name) for name in names] if request.include_type_sources else []
    return new_message(f"{SERVICE}_Response", successful=True, type_description=described, type_sources=sources)


def _within(type_name: str, seen: set[str]) -> set[str]:
    if type_name not in seen:
        seen.add(type_name)
        for inner in dependencies(load_definition(type_name)):
            _within(inner, seen)
    return seen


def _individual(type_name: str) -> Any:
    fields = load_definition(type_name)[1] or [("structure_needs_at_least_one_member", _EMPTY)]
    described = [new_message(f"{_MSG}/Field", name=name, type=_field_type(kind)) for name, kind in fields]
    return new_message(f"{_MSG}/IndividualTypeDescription", type_name=type_name, fields=described)


def _field_type(description: FieldDesc) -> Any:
    offset, capacity = 0, 0
    if description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        inner, capacity = description[1]
        offset = _ARRAY if description[0] == Nodetype.ARRAY else _BOUNDED if capacity else _SEQUENCE
        description = inner
    if description[0] == Nodetype.NAME:
        return new_message(
            f"{_MSG}/FieldType", type_id=offset + _NESTED, capacity=capacity, nested_type_name=description[1]
        )
    base, bound = description[1]
    kind = "bounded_string" if base == "string" and bound else base
    return new_message(
        f"{_MSG}/FieldType", type_id=offset + TIDMAP[kind], capacity=capacity, string_capacity=bound or 0
    )


def _source(type_name: str) -> Any:
    """The text of the file that defines the type; none for what is derived from a service or an action."""
    package, kind, name = type_name.split("/")
    path = FOLDER / package / kind / f"{name}.{kind}"
    text = path.read_text() if path.is_file() else ""
    encoding = kind if text else "implicit"
    return new_message(f"{_MSG}/TypeSource", type_name=type_name, encoding=encoding, raw_file_contents=text)
