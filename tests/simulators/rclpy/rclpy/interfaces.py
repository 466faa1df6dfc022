"""Interface packages (``std_msgs.msg`` and so on) as rosidl generates them: constructors and setters that check.

Not of rclpy: in ROS these are packages of their own. Made from the definitions under ``inference_service/wire/msg``.
"""

from __future__ import annotations

import array
import sys
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
from rosbags.interfaces import Nodetype

from inference_service.core.errors import ProtocolError
from inference_service.wire.definitions import FOLDER, load_definition
from inference_service.wire.interfaces import new_message

_PACKAGES = frozenset(
    path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("rmw_dds_common")
)
_KINDS = ("msg", "srv", "action")
_INTEGERS = {
    name: np.iinfo(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
}
_INTEGERS["char"] = _INTEGERS["uint8"]
_CODES = {
    "int8": "b",
    "uint8": "B",
    "char": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
}
_CODES |= {"uint64": "Q", "float32": "f", "float64": "d"}


class Message:
    """Base of the generated classes. ``SLOTS``: name to description of each field."""

    TYPE = ""
    SLOTS: dict = {}  # noqa: RUF012  # replaced whole in every class

    def __init__(self, **fields):
        unknown = fields.keys() - self.SLOTS.keys()
        assert not unknown, f"Invalid arguments passed to constructor: {', '.join(unknown)}"
        for name, description in self.SLOTS.items():
            setattr(self, name, fields[name] if name in fields else _default(description))

    def __setattr__(self, name, value):
        if name not in self.SLOTS:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, _checked(f"{type(self).__name__}.{name}", value, self.SLOTS[name]))

    def __eq__(self, other):
        return isinstance(other, type(self)) and to_wire(self) == to_wire(other)

    __hash__ = None


def _default(description):
    kind, inner = description
    if kind == Nodetype.NAME:
        return message_class(inner)()
    if kind == Nodetype.BASE:
        return {"bool": False, "string": "", "byte": b"\0", "octet": b"\0"}.get(
            inner[0], 0.0 if inner[0].startswith("float") else 0
        )
    element, count = inner
    if kind == Nodetype.ARRAY:
        return np.zeros(count, element[1][0]) if _is_number(element) else [_default(element) for _ in range(count)]
    return array.array(_CODES[element[1][0]]) if _is_number(element) else []


def _is_number(element):
    return element[0] == Nodetype.BASE and element[1][0] in _CODES


def _checked(where, value, description):
    kind, inner = description
    if kind == Nodetype.NAME:
        assert isinstance(value, message_class(inner)), f"The '{where}' field must be a sub message of type '{inner}'"
        return value
    if kind == Nodetype.BASE:
        return _checked_base(where, value, inner[0])
    element, count = inner
    assert not isinstance(value, (str, bytes)) or element[1][0] in ("uint8", "octet", "byte"), f"{where}: {value!r}"
    assert kind != Nodetype.ARRAY or len(value) == count, f"The '{where}' field must have length {count}"
    if not _is_number(element):
        return [_checked(where, one, element) for one in value]
    if isinstance(value, np.ndarray):
        assert value.dtype == np.dtype(element[1][0]), f"The '{where}' field must have dtype '{element[1][0]}'"
    elif isinstance(value, array.array):
        assert value.typecode == _CODES[element[1][0]], f"The '{where}' array.array must have another type code"
    else:
        for one in value:
            _checked_base(where, one, element[1][0])
    if kind == Nodetype.ARRAY:
        return np.array(value, element[1][0])
    return array.array(_CODES[element[1][0]], value)


def _checked_base(where, value, base):
    if base in _INTEGERS:
        assert isinstance(value, int), f"The '{where}' field must be of type 'int'"
        assert _INTEGERS[base].min <= value <= _INTEGERS[base].max, f"The '{where}' field is out of bounds of {base}"
    elif base in ("byte", "octet"):
        assert isinstance(value, bytes) and len(value) == 1, f"The '{where}' field must be of type 'bytes'"
    else:
        wanted = {"bool": bool, "string": str, "float32": float, "float64": float}[base]
        assert isinstance(value, wanted), f"The '{where}' field must be of type '{wanted.__name__}'"
    return value


def to_wire(message):
    """The message object of :mod:`inference_service.wire.interfaces`."""
    fields = {name: _field_to_wire(getattr(message, name), kind) for name, kind in message.SLOTS.items()}
    return new_message(message.TYPE, **fields)


def _field_to_wire(value, description):
    kind, inner = description
    if kind == Nodetype.NAME:
        return to_wire(value)
    if kind == Nodetype.BASE:
        return value[0] if inner[0] in ("byte", "octet") else value
    element = inner[0]
    if element[0] == Nodetype.BASE and element[1][0] != "string":
        base = {"char": "uint8", "byte": "uint8", "octet": "uint8"}.get(element[1][0], element[1][0])
        return np.array([_field_to_wire(one, element) for one in value], base)
    return [_field_to_wire(one, element) for one in value]


def from_wire(message, type_name):
    """An instance of the generated class of ``type_name``."""
    cls = message_class(type_name)
    return cls(**{name: _field_from_wire(getattr(message, name), kind) for name, kind in cls.SLOTS.items()})


def _field_from_wire(value, description):
    kind, inner = description
    if kind == Nodetype.NAME:
        return from_wire(value, inner)
    if kind == Nodetype.BASE:
        return bytes([value]) if inner[0] in ("byte", "octet") else value
    element = inner[0]
    if _is_number(element):
        return np.asarray(value, element[1][0])
    return [_field_from_wire(one if element[0] == Nodetype.NAME else _plain(one), element) for one in value]


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value


@cache
def message_class(type_name):
    """The generated class of ``pkg/msg/T``, ``pkg/srv/T_Request``, ``pkg/action/T_SendGoal_Request``…"""
    slots = dict(load_definition(type_name)[1])
    return type(type_name.rsplit("/", 1)[1], (Message,), {"TYPE": type_name, "SLOTS": slots})


class _Service(type):
    """A service class: only its parts are ever made."""


@cache
def service_class(type_name):
    parts = {part: message_class(f"{type_name}_{part}") for part in ("Request", "Response")}
    return _Service(type_name.rsplit("/", 1)[1], (), {"TYPE": type_name, **parts})


class _Action(type):
    """An action class, likewise."""


@cache
def action_class(type_name):
    impl = type(
        "Impl",
        (),
        {
            "SendGoalService": service_class(f"{type_name}_SendGoal"),
            "GetResultService": service_class(f"{type_name}_GetResult"),
            "FeedbackMessage": message_class(f"{type_name}_FeedbackMessage"),
            "CancelGoalService": service_class("action_msgs/srv/CancelGoal"),
            "GoalStatusMessage": message_class("action_msgs/msg/GoalStatusArray"),
        },
    )
    parts = {part: message_class(f"{type_name}_{part}") for part in ("Goal", "Result", "Feedback")}
    return _Action(type_name.rsplit("/", 1)[1], (), {"TYPE": type_name, "Impl": impl, **parts})


_MAKERS = {"msg": message_class, "srv": service_class, "action": action_class}


def check_is_message(cls):
    """``rclpy.type_support.check_is_valid_msg_type``."""
    if not (isinstance(cls, type) and issubclass(cls, Message)):
        raise RuntimeError(f"The passed message type is invalid: {cls!r}")


def check_is_service(cls):
    if not isinstance(cls, _Service):
        raise RuntimeError(f"The passed service type is invalid: {cls!r}")


def check_is_action(cls):
    if not isinstance(cls, _Action):
        raise AttributeError(f"The passed action type is invalid: {cls!r}")


class _Package(ModuleType):
    """``pkg.msg``: a class for each definition there is."""

    def __getattr__(self, name):
        package, _, kind = self.__name__.partition(".")
        if not name[:1].isupper() or not kind:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            return _MAKERS[kind](f"{package}/{kind}/{name}")
        except ProtocolError as error:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from error


class Finder(MetaPathFinder, Loader):
    """Finds the interface packages."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, kind = fullname.partition(".")
        if package not in _PACKAGES or (kind and kind not in _KINDS):
            return None
        return ModuleSpec(fullname, self, is_package=not kind)

    def create_module(self, spec):
        return _Package(spec.name)

    def exec_module(self, module):
        pass


def install():
    if not any(isinstance(one, Finder) for one in sys.meta_path):
        sys.meta_path.append(Finder())


def uninstall():
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, Finder)]
    for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
        del sys.modules[name]
