"""cyclonedds type classes from ROS message definitions.

cyclonedds checks CDR against the layout of the declared class, on write and on receipt, so every topic
declares its true layout. Instances of these classes are never made: ready CDR goes in and out (``native.py``).
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from cyclonedds.idl import make_idl_struct, types
from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Fielddefs, FieldDesc

from inference_service.transport.dds.type_objects import take_known
from inference_service.wire.definitions import load_definition
from inference_service.wire.interfaces import dds_type_name

_CYCLONE_10 = not hasattr(types, "byte")
_BYTE = types.uint8 if _CYCLONE_10 else types.byte  # cyclonedds 0.10 has no name of its own for it
_BASES: dict[str, Any] = {
    "bool": bool,
    "string": str,
    "byte": _BYTE,
    "octet": _BYTE,
    "char": types.uint8,
    **{
        name: getattr(types, name)
        for name in ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
    },
}
# ROS gives a message without fields this one, because IDL has no empty struct.
_NOTHING: Fielddefs = [("structure_needs_at_least_one_member", (Nodetype.BASE, ("uint8", 0)))]
_lock = threading.RLock()


def message_layout(type_name: str) -> Any:
    """The class of ``pkg/msg/T``. One class per type: two topics of it in a process are of the same type.

    Raises:
        ProtocolError: no definition of that type.
    """
    with _lock:
        return _message_layout(type_name)


def service_layout(type_name: str) -> Any:
    """The class of a service's request or response: rmw_cyclonedds's header (id of the client, number of the
    request), then the message."""
    with _lock:
        return _service_layout(type_name)


@cache
def _message_layout(type_name: str) -> Any:
    return _struct(type_name, _fields(type_name))


@cache
def _service_layout(type_name: str) -> Any:
    # The message's fields stand beside the header's: a struct within a struct of its own name would be recursive.
    return _struct(type_name, {"rmw_client": types.uint64, "rmw_sequence": types.int64, **_fields(type_name)})


def _fields(type_name: str) -> dict[str, Any]:
    fields = load_definition(type_name)[1] or _NOTHING
    return {name: _annotation(description) for name, description in fields}


def _struct(type_name: str, fields: dict[str, Any]) -> Any:
    struct = make_idl_struct(type_name.rsplit("/", 1)[-1] + "_", dds_type_name(type_name), fields)
    if _CYCLONE_10:
        # Told of types, 0.10 asks 11 for the details and crashes on the answer (ddsi_xt_type_init_impl). Without
        # them it matches by name, as rmw_cyclonedds does; 11 itself cannot do without.
        struct.__idl__.fill_type_data = lambda: None
    else:
        take_known(struct, type_name, fields)
    return struct


def _annotation(description: FieldDesc) -> Any:
    if description[0] == Nodetype.BASE:
        return _BASES[description[1][0]]
    if description[0] == Nodetype.NAME:
        return _message_layout(description[1])
    inner, count = description[1]
    if description[0] == Nodetype.ARRAY:
        return types.array[_annotation(inner), count]
    return types.sequence[_annotation(inner)]
