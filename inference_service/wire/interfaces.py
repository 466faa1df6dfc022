"""ROS 2 message types and their bytes, without ROS.

Message classes are plain dataclasses named by their ROS type (``sensor_msgs/msg/Image``), with numpy arrays for
sequences of numbers. CDR is XCDR1, little endian, with its 4-byte encapsulation header: what rmw_cyclonedds
writes and reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

from rosbags.serde import SerdeError

from inference_service.core.errors import MalformedMessage, ProtocolError
from inference_service.wire.packed import VARIANTS_LIST, Entry, Frame, VariantsList, pack, pack_parts, unpack_framed
from inference_service.wire.typestore import BoundedTypestore

Buffer: TypeAlias = bytes | bytearray | memoryview

PARTICIPANT_INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
"""Node graph of ROS 2 iron and later: GIDs of 16 bytes."""
PARTICIPANT_INFO_HUMBLE = "rmw_dds_common_humble/msg/ParticipantEntitiesInfo"
"""The same of humble and older: GIDs of 24 bytes, the last 8 zero. Same name on DDS."""

_store = BoundedTypestore()


def get_message(type_name: str) -> type[Any]:
    """The class of ``pkg/msg/T`` (or ``pkg/srv/T_Request``, ``pkg/action/T_SendGoal_Request``…).

    Every field is an argument of its constructor and none has a default; see :func:`new_message`.

    Raises:
        ProtocolError: no definition of that type.
    """
    if type_name == VARIANTS_LIST:
        return VariantsList
    _store.load(type_name)
    return _store.types[type_name]


def variants_list(
    entries: Mapping[str, Entry], cdr: memoryview | None = None, frame: Frame | None = None
) -> VariantsList:
    """The message of ``entries``, which must be what :func:`~inference_service.wire.packed.pack` takes, and of the
    bytes that they came in."""
    return VariantsList.of(entries, _expand, cdr, frame)


def _expand(cdr: memoryview) -> list[Any]:
    message: Any = _store.deserialize_bounded(cdr.toreadonly(), VARIANTS_LIST)
    return cast("list[Any]", message.variants)


def new_message(type_name: str, /, **fields: Any) -> Any:
    """A message with ROS's defaults (zero, empty, false) in every field that ``fields`` does not give."""
    return get_message(type_name)(**{**_store.default(type_name), **fields})


def serialize(message: Any, type_name: str) -> memoryview:
    """``message`` as CDR, encapsulation header included.

    Raises:
        MalformedMessage: a field holds a value of another type than the definition's; it is named.
    """
    if type(message) is VariantsList and message.entries is not None:
        return memoryview(pack(message.entries))
    _store.check_arrays(message, type_name)
    try:
        return _store.serialize_cdr(message, type_name, little_endian=True)
    except (SerdeError, struct.error, AttributeError, TypeError, ValueError) as error:
        raise MalformedMessage(f"cannot serialise {type_name}: {error}") from error


def serialize_parts(message: Any, type_name: str) -> list[Any]:
    """``message`` as parts that one after the other are its CDR. More than one only where that saves a copy of a large
    array, which then is a part itself; together they are a multiple of 4 bytes then. Raises as :func:`serialize`."""
    if type(message) is VariantsList and message.entries is not None:
        return pack_parts(message.entries)
    return [serialize(message, type_name)]


def deserialize(cdr: Buffer, type_name: str) -> Any:
    """The message in ``cdr`` (encapsulation header included).

    Arrays are read-only views into ``cdr``, which therefore must not change while the message lives.

    Raises:
        MalformedMessage: the bytes are no XCDR1, end early, go on too long, or hold lengths beyond their end.
    """
    data = memoryview(cdr).cast("B").toreadonly()
    entries, frame = unpack_framed(data) if type_name == VARIANTS_LIST else (None, None)
    if entries is not None:
        return variants_list(entries, data, frame)
    try:
        message: Any = _store.deserialize_bounded(data, type_name)
        return VariantsList(message.variants) if type_name == VARIANTS_LIST else message
    except (SerdeError, IndexError, OverflowError) as error:
        raise MalformedMessage(f"cannot deserialise {type_name}: {error}") from error


def dds_type_name(type_name: str) -> str:
    """``pkg/msg/T`` as rmw_cyclonedds names it on DDS: ``pkg::msg::dds_::T_``; likewise for ``srv`` and ``action``."""
    if type_name == PARTICIPANT_INFO_HUMBLE:
        type_name = PARTICIPANT_INFO
    package, kind, name = type_name.split("/")
    return f"{package}::{kind}::dds_::{name}_"


@lru_cache(maxsize=256)
def type_hash(type_name: str) -> str | None:
    """RIHS01 type hash (REP 2011) of a message, service or action, or None where its definition is not known.

    What ROS computed where we have it; else computed from the definition by the same rules.
    """
    known = _hashes().get(type_name)
    if known is not None:
        return known
    try:
        _store.load(type_name)
    except ProtocolError:
        return None
    return _store.hash_rihs01(type_name)


@lru_cache(maxsize=1)
def _hashes() -> dict[str, str]:
    text = (Path(__file__).parent / "msg" / "type_hashes.json").read_text()
    return cast("dict[str, str]", json.loads(text)["hashes"])


@dataclass(frozen=True)
class ServiceTypes:
    """Type names of a service: its own (for :func:`type_hash`) and those of its two messages."""

    service: str
    request: str
    response: str


@dataclass(frozen=True)
class ActionTypes:
    """Type names of an action and of everything that it is made of on the wire."""

    action: str
    goal: str
    result: str
    feedback: str
    send_goal: ServiceTypes
    get_result: ServiceTypes
    cancel_goal: ServiceTypes
    feedback_message: str
    status: str


def service_types(service_type: str) -> ServiceTypes:
    """Names of the messages of a service ``pkg/srv/T``."""
    return ServiceTypes(service_type, f"{service_type}_Request", f"{service_type}_Response")


def action_types(action_type: str) -> ActionTypes:
    """Names of the messages and services of an action ``pkg/action/T``."""
    return ActionTypes(
        action=action_type,
        goal=f"{action_type}_Goal",
        result=f"{action_type}_Result",
        feedback=f"{action_type}_Feedback",
        send_goal=service_types(f"{action_type}_SendGoal"),
        get_result=service_types(f"{action_type}_GetResult"),
        cancel_goal=service_types("action_msgs/srv/CancelGoal"),
        feedback_message=f"{action_type}_FeedbackMessage",
        status="action_msgs/msg/GoalStatusArray",
    )
