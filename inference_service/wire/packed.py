"""``ibrobot_msgs/msg/VariantsList`` straight from named entries to CDR, and back as views.

Every request and every reply is one of these. The general way, an object for each variant, layout and axis, costs a
millisecond of Python for both ends, several times what the bytes themselves cost. So what this package and IB-Robot
write (one field in use per variant; empty labels, strides and offsets of zero) goes this way, and anything else the
general one. Both write the same bytes and read the same values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

VARIANTS_LIST = "ibrobot_msgs/msg/VariantsList"
Entry: TypeAlias = "NDArray[Any] | list[str]"
Expand: TypeAlias = "Callable[[memoryview], list[Any]]"
"""CDR to a message for each variant."""

_LITTLE_ENDIAN_CDR = b"\x00\x01\x00\x00"
_START = len(_LITTLE_ENDIAN_CDR)
_ZEROS = tuple(bytes(count) for count in range(64))
_UINT32 = struct.Struct("<I")
# Bytes of the fields before and after the one in use, all empty: two sequences, then arrays of layout (dimensions,
# offset) and data.
_ARRAY = 12
_SEQUENCE = 4
_NUMBERS: dict[str, tuple[np.dtype[Any], int]] = {
    "int_32_array": (np.dtype("<i4"), 0),
    "int_64_array": (np.dtype("<i8"), 1),
    "float_32_array": (np.dtype("<f4"), 2),
    "float_64_array": (np.dtype("<f8"), 3),
}
_FIELD_OF = {dtype: name for name, (dtype, _) in _NUMBERS.items()}
_BOOL = np.dtype(np.bool_)
_MAX_RANK = 16
_ONES = tuple((1,) * rank for rank in range(_MAX_RANK + 1))
_MAX_COUNT = 4096
_LARGE = 16384


class VariantsList:
    """The message. Holds ``variants``, or the ``entries`` that they stand for until someone asks for ``variants``."""

    __slots__ = ("_cdr", "_entries", "_expand", "_variants")

    def __init__(self, variants: list[Any]) -> None:
        self._variants = variants
        self._entries: Mapping[str, Entry] | None = None
        self._cdr: memoryview | None = None
        self._expand: Expand | None = None

    @classmethod
    def of(cls, entries: Mapping[str, Entry], expand: Expand, cdr: memoryview | None = None) -> VariantsList:
        """``entries`` must hold what :func:`pack` can write; ``cdr`` are the bytes that they came in."""
        message = cls([])
        message._entries, message._expand, message._cdr = entries, expand, cdr
        return message

    @property
    def entries(self) -> Mapping[str, Entry] | None:
        """What it holds by key; None where only ``variants`` says it."""
        return self._entries

    @property
    def variants(self) -> list[Any]:
        """A message per variant, which may be changed: from now on they are what counts."""
        if self._entries is not None and self._expand is not None:
            cdr = self._cdr
            self.variants = self._expand(memoryview(pack(self._entries)) if cdr is None else cdr)
        return self._variants

    @variants.setter
    def variants(self, variants: list[Any]) -> None:
        self._variants, self._entries, self._cdr = variants, None, None


def pack(entries: Mapping[str, Entry]) -> bytes:
    """CDR of the message, encapsulation included. Each array is copied once, into the result.

    ``entries``: lists of strings, bool arrays of one axis, int32, int64, float32 and float64 arrays of one or more.

    Raises:
        ValueError: an array of another kind.
    """
    return b"".join(_parts(entries))


def pack_parts(entries: Mapping[str, Entry]) -> list[bytes | NDArray[Any]]:
    """The same in parts: large arrays by themselves, not copied, and what is between them. Raises as :func:`pack`."""
    joined: list[bytes | NDArray[Any]] = []
    small: list[Any] = []
    for part in _parts(entries):
        if isinstance(part, np.ndarray) and part.nbytes >= _LARGE:
            joined += [b"".join(small), part]
            small = []
        else:
            small.append(part)
    rest = b"".join(small)
    return [*joined, rest] if rest else joined


def _parts(entries: Mapping[str, Entry]) -> list[Any]:
    parts: list[Any] = [_LITTLE_ENDIAN_CDR, _UINT32.pack(len(entries))]
    position = 4
    for key, entry in entries.items():
        if isinstance(entry, list):
            own = _pack_strings(key, entry)
        elif entry.dtype == _BOOL:
            own = [_text(key), _text("bool_array"), _UINT32.pack(entry.size), np.ascontiguousarray(entry)]
            own += [_ZEROS[-entry.size % 4], _ZEROS[_SEQUENCE + 4 * _ARRAY]]
        else:
            own = _pack_numbers(key, entry, position)
        parts += own
        position += sum(map(_size, own))
    return parts


def _size(part: Any) -> int:
    return part.nbytes if isinstance(part, np.ndarray) else len(part)


def _pack_strings(key: str, strings: list[str]) -> list[Any]:
    head = [_text(key), _text("string_array"), _ZEROS[_SEQUENCE], _UINT32.pack(len(strings))]
    return [*head, *map(_text, strings), _ZEROS[4 * _ARRAY]]


def _pack_numbers(key: str, array: NDArray[Any], position: int) -> list[Any]:
    name = _FIELD_OF.get(array.dtype)
    if name is None or not array.ndim:
        raise ValueError(f"{key!r}: {array.dtype} {array.shape} is no field of a variant")
    head, tail = _frame(key, name, array.shape)
    # Only elements are aligned to their size: an empty sequence of doubles is its length alone.
    padding = -(position + len(head)) % 8 if array.itemsize == 8 and array.size else 0
    return [head, _ZEROS[padding], np.ascontiguousarray(array), tail]


@lru_cache(maxsize=512)
def _frame(key: str, name: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """What stands before and after the numbers: the same for every message of a policy."""
    index = _NUMBERS[name][1]
    dimensions = b"".join(_label("") + struct.pack("<II", size, 0) for size in shape)
    layout = _UINT32.pack(len(shape)) + dimensions + _UINT32.pack(0)
    before = _ZEROS[2 * _SEQUENCE + index * _ARRAY]
    return _label(key) + _label(name) + before + layout + _UINT32.pack(prod(shape)), _ZEROS[(3 - index) * _ARRAY]


@lru_cache(maxsize=512)
def _label(text: str) -> bytes:
    return _text(text)


def _text(text: str) -> bytes:
    """A string, padded so that the next number is aligned."""
    data = text.encode()
    return _UINT32.pack(len(data) + 1) + data + _ZEROS[4 - len(data) % 4]


def unpack(cdr: memoryview) -> dict[str, Entry] | None:
    """The entries of a message, arrays as views into ``cdr``; None for what only the general way can judge: bytes that
    are broken, another byte order, labels, strides, offsets, more than one field in use, a key that is there twice."""
    try:
        return _Reader(cdr).entries()
    except (_Unusual, struct.error, UnicodeDecodeError, ValueError, IndexError):
        return None


class _Unusual(Exception):
    """For the general way."""


class _Reader:
    """Reads on from ``_at``. Every number outside the data is aligned to 4, as is the beginning."""

    def __init__(self, cdr: memoryview) -> None:
        if cdr[:_START] != _LITTLE_ENDIAN_CDR:
            raise _Unusual
        self._cdr = cdr
        self._at = _START

    def entries(self) -> dict[str, Entry]:
        count = self._number()
        if count > _MAX_COUNT:
            raise _Unusual
        entries: dict[str, Entry] = {}
        for _ in range(count):
            key = self._text()
            entries[key] = self._entry(self._text())
        if len(entries) != count or not 0 <= len(self._cdr) - self._at <= 3:
            raise _Unusual
        return entries

    def _number(self) -> int:
        value: int = _UINT32.unpack_from(self._cdr, self._at)[0]
        self._at += 4
        return value

    def _text(self) -> str:
        size = self._number()
        end = self._at + size
        data = self._cdr[self._at : end].tobytes()
        if not size or len(data) != size or data[-1]:
            raise _Unusual
        self._at = end + -end % 4
        return data[:-1].decode()

    def _zeros(self, count: int) -> None:
        end = self._at + count
        if self._cdr[self._at : end] != _ZEROS[count]:
            raise _Unusual
        self._at = end

    def _entry(self, kind: str) -> Entry:
        if kind == "string_array":
            return self._strings()
        if kind == "bool_array":
            return self._flags()
        if kind not in _NUMBERS:
            raise _Unusual
        dtype, index = _NUMBERS[kind]
        self._zeros(2 * _SEQUENCE + index * _ARRAY)
        array = self._numbers(dtype)
        self._zeros((3 - index) * _ARRAY)
        return array

    def _strings(self) -> list[str]:
        self._zeros(_SEQUENCE)
        count = self._number()
        if count > _MAX_COUNT:
            raise _Unusual
        strings = [self._text() for _ in range(count)]
        self._zeros(4 * _ARRAY)
        return strings

    def _flags(self) -> NDArray[Any]:
        flags = self._array(_BOOL, self._number())
        self._at += -self._at % 4
        self._zeros(_SEQUENCE + 4 * _ARRAY)
        return flags

    def _numbers(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        rank = self._number()
        if not 1 <= rank <= _MAX_RANK:
            raise _Unusual
        words = struct.unpack_from(f"<{4 * rank + 2}I", self._cdr, self._at)
        self._at += 4 * len(words)
        # Label (a length of one, then a NUL), size and stride of each axis; the offset; the number of values.
        shape = words[2:-2:4]
        if words[0:-2:4] != _ONES[rank] or any(words[1:-2:4]) or any(words[3:-2:4]) or words[-2]:
            raise _Unusual
        if prod(shape) != words[-1]:
            raise _Unusual
        if words[-1] and dtype.itemsize == 8:
            self._at += -(self._at - _START) % 8
        return self._array(dtype, words[-1]).reshape(shape)

    def _array(self, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
        array = np.frombuffer(self._cdr, dtype, size, self._at) if size else np.zeros(0, dtype)
        self._at += array.nbytes
        return array
