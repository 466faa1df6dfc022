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
from typing import Any, NamedTuple, TypeAlias

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

    __slots__ = ("_cdr", "_entries", "_expand", "_variants", "frame")

    def __init__(self, variants: list[Any]) -> None:
        self._variants = variants
        self._entries: Mapping[str, Entry] | None = None
        self._cdr: memoryview | None = None
        self._expand: Expand | None = None
        self.frame: Frame | None = None

    @classmethod
    def of(
        cls,
        entries: Mapping[str, Entry],
        expand: Expand,
        cdr: memoryview | None = None,
        frame: Frame | None = None,
    ) -> VariantsList:
        """``entries`` must hold what :func:`pack` can write; ``cdr`` are the bytes that they came in, ``frame`` what
        those have in common with messages before."""
        message = cls([])
        message._entries, message._expand, message._cdr, message.frame = entries, expand, cdr, frame
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
        self._variants, self._entries, self._cdr, self.frame = variants, None, None, None


def pack(entries: Mapping[str, Entry]) -> bytes:
    """CDR of the message, encapsulation included. A large array is copied once, into the result.

    ``entries``: lists of strings, bool arrays of one axis, int32, int64, float32 and float64 arrays of one or more.

    Raises:
        ValueError: an array of another kind.
    """
    joined: list[Any] = list(pack_parts(entries))
    return b"".join(joined)


def pack_parts(entries: Mapping[str, Entry]) -> list[bytes | NDArray[Any]]:
    """The same in parts: large arrays by themselves, not copied, and what is between them. Raises as :func:`pack`."""
    parts: list[bytes | NDArray[Any]] = []
    done = -_START  # alignment counts from behind the encapsulation
    small = bytearray(_LITTLE_ENDIAN_CDR)
    small += _UINT32.pack(len(entries))
    for key, entry in entries.items():
        if isinstance(entry, list):
            small += _strings_head(key, len(entry))
            for text in entry:
                small += _text(text)
            small += _ZEROS[4 * _ARRAY]
            continue
        head, tail, alignment = _around(key, entry)
        small += head
        if alignment == 8 and entry.size:  # only elements are aligned to their size: no elements, no padding
            small += _ZEROS[-(done + len(small)) % 8]
        array = np.ascontiguousarray(entry)
        if array.nbytes < _LARGE:
            small += array.tobytes()
        else:
            parts += (bytes(small), array)
            done += len(small) + array.nbytes
            small = bytearray()
        small += tail
    return [*parts, bytes(small)] if small else parts


@lru_cache(maxsize=512)
def _strings_head(key: str, count: int) -> bytes:
    return _text(key) + _text("string_array") + _ZEROS[_SEQUENCE] + _UINT32.pack(count)


def _around(key: str, array: NDArray[Any]) -> tuple[bytes, bytes, int]:
    """What stands before and after the elements, and what they are aligned to."""
    name = _FIELD_OF.get(array.dtype)
    if name is None and array.dtype == _BOOL:
        head = _label(key) + _label("bool_array") + _UINT32.pack(array.size)
        return head, _ZEROS[-array.size % 4 + _SEQUENCE + 4 * _ARRAY], 1
    if name is None or not array.ndim:
        raise ValueError(f"{key!r}: {array.dtype} {array.shape} is no field of a variant")
    return *_frame(key, name, array.shape), array.itemsize


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
    return unpack_framed(cdr)[0]


def unpack_framed(cdr: memoryview) -> tuple[dict[str, Entry] | None, Frame | None]:
    """The same, and the frame that the message shares with earlier ones, if any."""
    size = len(cdr)
    for frame in _frames.get(size, ()):
        entries = frame.fill(cdr)
        if entries is not None:
            return entries, frame
    try:
        reader = _Reader(cdr)
        entries = reader.entries()
    except (_Unusual, struct.error, UnicodeDecodeError, ValueError, IndexError):
        return None, None
    return entries, _frame_of(reader)


# Bounded, whatever is sent: frames in all, and what each may hold.
_MAX_LENGTHS = 64
_FRAMES_OF_A_LENGTH = 4
_MAX_FIXED = 1 << 16
_MAX_SLOTS = 256
_frames: dict[int, tuple[Frame, ...]] = {}
_lengths: dict[int, None] = {}


def _frame_of(reader: _Reader) -> Frame | None:
    """A frame for the messages to come, where an earlier one had the same length: what never comes again, as JPEG's
    lengths, is not worth it."""
    size = len(reader.cdr)
    values = sum(slot.end - slot.start for slot in reader.slots)
    if size - values > _MAX_FIXED or len(reader.slots) > _MAX_SLOTS:
        return None
    if size not in _lengths:
        if len(_lengths) >= _MAX_LENGTHS:
            _lengths.clear()
            _frames.clear()
        _lengths[size] = None
        return None
    frame = Frame(reader)
    _frames[size] = (frame, *_frames.get(size, ())[: _FRAMES_OF_A_LENGTH - 1])
    return frame


class _Slot(NamedTuple):
    """Where a value of an entry lies: an array (``dtype`` and ``shape``), or one of its strings."""

    key: str
    start: int
    end: int
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()

    @property
    def layout(self) -> str:
        """For ``struct``: of an array no bytes, which are not to be copied."""
        size = self.end - self.start
        return f"{size}s" if self.dtype is None else f"{size}x0s"


class Frame:
    """What messages of one sender have in common: every byte but those of the values, which one comparison settles
    instead of reading each key, type and shape anew."""

    def __init__(self, reader: _Reader) -> None:
        """``reader``: one that has read a whole message."""
        layout, at = "<", 0
        for slot in reader.slots:
            layout += f"{slot.start - at}s{slot.layout}"
            at = slot.end
        self._struct = struct.Struct(f"{layout}{len(reader.cdr) - at}s")
        # Between two fixed pieces lies a value each.
        self._fixed = self._struct.unpack_from(reader.cdr)[::2]
        self._slots = tuple(reader.slots)
        self._keys = tuple(reader.read)
        self.flags = any(slot.dtype == _BOOL for slot in self._slots)
        """Whether some values are bools, of which not every byte is one."""
        self.longest = max((slot.end - slot.start for slot in self._slots if slot.dtype is None), default=0)
        """Bytes of the longest string."""
        self.judged: object = None
        """Bounds that a message of this frame was found to be within."""

    def fill(self, cdr: memoryview) -> dict[str, Entry] | None:
        """The entries of ``cdr``, which has the frame's length; None where it is of another frame."""
        values = self._struct.unpack_from(cdr)
        if values[::2] != self._fixed:
            return None
        entries: dict[str, Any] = {key: [] for key in self._keys}
        try:
            for slot, value in zip(self._slots, values[1::2], strict=True):
                key, start, _, dtype, shape = slot
                if dtype is None:
                    entries[key].append(value.decode())
                else:
                    entries[key] = np.ndarray(shape, dtype, cdr, start)
        except UnicodeDecodeError:
            return None
        return entries


class _Unusual(Exception):
    """For the general way."""


class _Reader:
    """Reads on from ``_at``. Every number outside the data is aligned to 4, as is the beginning."""

    def __init__(self, cdr: memoryview) -> None:
        if cdr[:_START] != _LITTLE_ENDIAN_CDR:
            raise _Unusual
        self._cdr = self.cdr = cdr
        self._at = _START
        self.slots: list[_Slot] = []
        self.read: dict[str, Entry] = {}
        self._key = ""

    def entries(self) -> dict[str, Entry]:
        count = self._number()
        if count > _MAX_COUNT:
            raise _Unusual
        entries = self.read
        for _ in range(count):
            self._key = key = self._text()
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
        strings = []
        for _ in range(count):
            start = self._at + 4
            strings.append(self._text())
            self.slots.append(_Slot(self._key, start, start + len(strings[-1].encode())))
        self._zeros(4 * _ARRAY)
        return strings

    def _flags(self) -> NDArray[Any]:
        size = self._number()
        flags = self._array(_BOOL, (size,), size)
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
        return self._array(dtype, shape, words[-1])

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> NDArray[Any]:
        array = (np.frombuffer(self._cdr, dtype, size, self._at) if size else np.zeros(0, dtype)).reshape(shape)
        self.slots.append(_Slot(self._key, self._at, self._at + array.nbytes, dtype, shape))
        self._at += array.nbytes
        return array
