"""rosbags' typestore, filled as types are used and bounded against hostile bytes.

rosbags generates sixteen functions for every message, most of them for ROS 1; here only the four that CDR
needs, which makes a node's start five times shorter. rosbags checks every length against the bytes that are
there, but an object weighs some twenty times its smallest encoding: so objects are counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import CDRDeser, Msgdef, Nodetype
from rosbags.interfaces.typing import Fielddefs, FieldDesc
from rosbags.serde import SerdeError
from rosbags.serde.cdr import generate_deserialize_cdr, generate_getsize_cdr, generate_serialize_cdr
from rosbags.serde.utils import check_sequence, ndtype
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

from inference_service.core.errors import MalformedMessage
from inference_service.wire.definitions import Definition, dependencies, load_definition

MAX_OBJECTS = 100_000
"""Nested messages and listed strings (this many are about 50 MB) that one CDR message may decode into."""
_STRING_MINIMUM = 5
"""What rosbags gives as the smallest size of a listed string; no other element has it."""


class _Budget(threading.local):
    left = 0


_budget = _Budget()


@dataclass(frozen=True)
class _ArrayCheck:
    """``field`` has to be a one-dimensional array of ``dtype``."""

    field: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _NestedCheck:
    """``field`` holds a message of ``type_name``, or a list of them, that has arrays in it."""

    field: str
    type_name: str
    many: bool


class BoundedTypestore(Typestore):
    """A typestore that loads a definition when it is first asked for. Safe to use from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._checks: dict[str, list[_ArrayCheck | _NestedCheck]] = {}

    def load(self, type_name: str) -> None:
        """Load the type and all that it contains. Raises ProtocolError where one is unknown."""
        if type_name in self.types:
            return
        with self._lock:
            wanted: dict[str, Definition] = {}
            todo = [type_name]
            while todo:
                name = todo.pop()
                if name not in self.types and name not in wanted:
                    wanted[name] = load_definition(name)
                    todo += dependencies(wanted[name])
            self.register(wanted)

    def get_msgdef(self, typename: str) -> Msgdef[object]:
        """rosbags' hook: the generated functions of a type."""
        known = self.cache.get(typename)
        if known is not None:
            return known
        self.load(typename)
        with self._lock:
            if typename not in self.cache:
                self.cache[typename] = self._generate(typename)
            return self.cache[typename]

    def _generate(self, type_name: str) -> Msgdef[object]:
        fields = [(normalize_fieldname(name), description) for name, description in self.fielddefs[type_name][1]]
        getsize, size = generate_getsize_cdr(fields, self)
        return Msgdef(
            type_name,
            fields,
            _counted(self.types[type_name]),  # type: ignore[arg-type]  # rosbags only ever calls it
            size,
            getsize,
            generate_serialize_cdr(fields, self, "le"),
            _unsupported,
            _bounded(generate_deserialize_cdr(fields, self, "le")),
            _bounded(generate_deserialize_cdr(fields, self, "be")),
            0,
            *(_unsupported,) * 7,
        )

    def deserialize_bounded(self, cdr: memoryview, type_name: str) -> object:
        """Raises SerdeError for bytes that do not decode, or decode into more than MAX_OBJECTS objects."""
        _budget.left = MAX_OBJECTS
        return self.deserialize_cdr(cdr, type_name)

    def check_arrays(self, message: object, type_name: str) -> None:
        """Raise MalformedMessage for an array field that holds anything but a flat array of its own dtype.

        rosbags copies an array's bytes as they are: without this, integers in a float64 field would reach a
        robot as garbage.
        """
        self._check(message, type_name, type_name)

    def _check(self, message: object, type_name: str, path: str) -> None:
        for check in self._checks_of(type_name):
            value = getattr(message, check.field, None)
            if isinstance(check, _ArrayCheck):
                if not (isinstance(value, np.ndarray) and value.dtype == check.dtype and value.ndim == 1):
                    raise MalformedMessage(
                        f"{path}.{check.field}: {_what(value)}, wants flat {check.dtype} numpy array"
                    )
            elif not check.many:
                self._check(value, check.type_name, f"{path}.{check.field}")
            else:
                for index, item in enumerate(value or ()):
                    self._check(item, check.type_name, f"{path}.{check.field}[{index}]")

    def _checks_of(self, type_name: str) -> list[_ArrayCheck | _NestedCheck]:
        known = self._checks.get(type_name)
        if known is None:
            self.load(type_name)
            known = self._checks[type_name] = self._make_checks(self.fielddefs[type_name][1])
        return known

    def _make_checks(self, fields: Fielddefs) -> list[_ArrayCheck | _NestedCheck]:
        checks: list[_ArrayCheck | _NestedCheck] = []
        for name, description in fields:
            field = normalize_fieldname(name)
            many = description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE)
            inner: Any = description[1][0] if many else description
            if inner[0] == Nodetype.NAME:
                if self._checks_of(inner[1]):
                    checks.append(_NestedCheck(field, inner[1], many))
            elif many and inner[1][0] != "string":
                checks.append(_ArrayCheck(field, np.dtype(ndtype(inner[1][0]))))
        return checks

    def default(self, type_name: str) -> dict[str, Any]:
        """ROS's default value of every field: zero, empty, false."""
        self.load(type_name)
        return {
            normalize_fieldname(name): self._default_of(description)
            for name, description in self.fielddefs[type_name][1]
        }

    def _default_of(self, description: FieldDesc) -> Any:
        if description[0] == Nodetype.NAME:
            values = self.default(description[1])
            return self.types[description[1]](**values)
        if description[0] == Nodetype.BASE:
            return _scalar_default(description[1][0])
        inner, count = description[1]
        count = count if description[0] == Nodetype.ARRAY else 0
        if inner[0] == Nodetype.BASE and inner[1][0] != "string":
            return np.zeros(count, ndtype(inner[1][0]))
        return [self._default_of(inner) for _ in range(count)]


def _scalar_default(kind: str) -> str | bool | float | int:
    if kind == "string":
        return ""
    if kind == "bool":
        return False
    return 0.0 if kind.startswith("float") else 0


def _counted(cls: Callable[..., object]) -> Callable[..., object]:
    def make(*values: object) -> object:
        _spend(1)
        return cls(*values)

    return make


def _bounded(reader: CDRDeser) -> CDRDeser:
    """A generated reader that counts listed strings before it makes them.

    The generated code looks ``check_sequence`` up in its module, which is its own; that is where ours goes.
    """
    cast(FunctionType, reader).__globals__["check_sequence"] = _check_sequence
    return reader


def _check_sequence(rawdata: bytes | memoryview, pos: int, size: int, minimum: int, maximum: int) -> None:
    check_sequence(rawdata, pos, size, minimum, maximum)
    if minimum == _STRING_MINIMUM:
        _spend(size)


def _spend(count: int) -> None:
    _budget.left -= count
    if _budget.left < 0:
        raise SerdeError(f"more than {MAX_OBJECTS} nested messages and strings")


def _unsupported(*_: object) -> NoReturn:
    raise SerdeError("ROS 1 and big-endian writing are not generated here")


def _what(value: NDArray[Any] | object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of {value.ndim} dimensions"
    return f"{type(value).__name__}"
