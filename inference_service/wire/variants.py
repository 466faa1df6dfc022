"""Named tensors and lists of strings as ``ibrobot_msgs/msg/VariantsList``, and back as views.

A variant's ``type`` names the one field that holds its data; ``layout.dim[i].size`` is the shape, with empty
labels and strides of zero, as IB-Robot writes them. A bool array has no layout and so only one axis.
Nothing is copied on the way in where arrays are contiguous, and nothing at all on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import MalformedMessage
from inference_service.wire.interfaces import variants_list
from inference_service.wire.packed import VARIANTS_LIST, Entry, VariantsList

__all__ = ["DEFAULT_BOUNDS", "VARIANTS_LIST", "Array", "Bounds", "Entry", "from_variants", "to_variants"]

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Bounds:
    """What a message may claim. Checked before anything is allocated for it, by the sender as by the receiver.

    ``tensor_bytes`` and ``total_bytes`` count tensors in the form in which the policy gets them (an encoded
    image as float32), so they bound what a decoder may allocate too.
    """

    variants: int = 64
    key_length: int = 256
    rank: int = 8
    tensor_bytes: int = 64 << 20
    total_bytes: int = 256 << 20
    strings: int = 1024
    string_length: int = 16384


DEFAULT_BOUNDS = Bounds()
_FIELDS: dict[str, np.dtype[Any]] = {
    "int_32_array": np.dtype(np.int32),
    "int_64_array": np.dtype(np.int64),
    "float_32_array": np.dtype(np.float32),
    "float_64_array": np.dtype(np.float64),
}
_BOOL = np.dtype(np.bool_)
_DTYPES = {_BOOL, *_FIELDS.values()}


def to_variants(entries: Mapping[str, Entry], bounds: Bounds = DEFAULT_BOUNDS) -> Any:
    """A VariantsList with one variant per entry, in the mapping's order.

    Arrays are bool (one axis), int32, int64, float32 or float64, with at least one axis.

    Raises:
        MalformedMessage: an entry of another kind, or outside ``bounds``; it is named.
    """
    _check_count(len(entries), bounds)
    for key, entry in entries.items():
        _check_entry(key, entry, bounds)
    _check_total(entries, bounds)
    return variants_list(dict(entries))


def from_variants(message: Any, bounds: Bounds = DEFAULT_BOUNDS) -> dict[str, Entry]:
    """The entries of a VariantsList, in its order: arrays are read-only views shaped by ``layout.dim``.

    Where there is no layout the array has one axis.

    Raises:
        MalformedMessage: unknown type, key twice, shape and data that disagree, or outside ``bounds``.
    """
    ready = message.entries if isinstance(message, VariantsList) else None
    if ready is not None:
        frame = message.frame
        if frame is not None and frame.judged is bounds:
            return dict(ready)
        _check_count(len(ready), bounds)
        for key, entry in ready.items():
            _check_received(key, entry, bounds)
        _check_total(ready, bounds)
        # Of messages in one frame only values differ: nothing is left to check but bools, and strings whose characters
        # might be more, in as many bytes.
        if frame is not None and not frame.flags and frame.longest <= bounds.string_length:
            frame.judged = bounds
        return dict(ready)
    _check_count(len(message.variants), bounds)
    entries: dict[str, Entry] = {}
    for variant in message.variants:
        _check_key(variant.key, bounds)
        if variant.key in entries:
            raise MalformedMessage(f"variant {variant.key!r} is there twice")
        entries[variant.key] = _from_variant(variant, bounds)
    _check_total(entries, bounds)
    return entries


def _check_entry(key: str, entry: Entry, bounds: Bounds) -> None:
    _check_key(key, bounds)
    if isinstance(entry, list):
        _check_strings(key, entry, bounds)
        return
    if not isinstance(entry, np.ndarray):
        raise MalformedMessage(f"variant {key!r}: {type(entry).__name__} cannot travel, only arrays and lists of str")
    _check_tensor(key, entry.shape, entry.nbytes, bounds)
    if entry.dtype == _BOOL and entry.ndim != 1:
        raise MalformedMessage(f"variant {key!r}: a bool array travels with one axis, not {entry.ndim}")
    if entry.dtype not in _DTYPES:
        raise MalformedMessage(
            f"variant {key!r}: dtype {entry.dtype} cannot travel: cast it to float32, int32 or int64"
        )


def _check_received(key: str, entry: Entry, bounds: Bounds) -> None:
    _check_key(key, bounds)
    if isinstance(entry, list):
        _check_strings(key, entry, bounds)
        return
    _check_tensor(key, entry.shape, entry.nbytes, bounds)
    if entry.dtype == _BOOL:
        _check_flags(key, entry)


def _check_flags(key: str, flags: Array) -> None:
    if flags.view(np.uint8).max(initial=0) > 1:
        raise MalformedMessage(f"variant {key!r}: a bool that is neither 0 nor 1")


def _from_variant(variant: Any, bounds: Bounds) -> Entry:
    key, kind = variant.key, variant.type
    if kind == "string_array":
        _check_strings(key, variant.string_array, bounds)
        return list(variant.string_array)
    if kind == "bool_array":
        flags: Array = variant.bool_array
        _check_tensor(key, flags.shape, flags.nbytes, bounds)
        _check_flags(key, flags)
        return flags
    if kind not in _FIELDS:
        raise MalformedMessage(f"variant {key!r}: unknown type {kind[:64]!r}")
    return _tensor(key, getattr(variant, kind), bounds)


def _tensor(key: str, multi_array: Any, bounds: Bounds) -> Array:
    data: Array = multi_array.data
    if multi_array.layout.data_offset:
        raise MalformedMessage(f"variant {key!r}: data_offset {multi_array.layout.data_offset} is not supported")
    dimensions = multi_array.layout.dim
    shape = tuple(dim.size for dim in dimensions[: bounds.rank + 1]) if dimensions else data.shape
    _check_tensor(key, shape, data.nbytes, bounds)
    if prod(shape) != data.size:
        raise MalformedMessage(f"variant {key!r}: shape {list(shape)} does not fit its {data.size} values")
    try:
        return data.reshape(shape)
    except ValueError as error:  # empty, with other axes too long for numpy
        raise MalformedMessage(f"variant {key!r}: shape {list(shape)}: {error}") from error


def _check_count(count: int, bounds: Bounds) -> None:
    if count > bounds.variants:
        raise MalformedMessage(f"{count} variants, at most {bounds.variants} are allowed")


def _check_key(key: str, bounds: Bounds) -> None:
    if not key:
        raise MalformedMessage("a variant has an empty key")
    if len(key) > bounds.key_length:
        raise MalformedMessage(f"variant {key[:32]!r}…: key of {len(key)}, at most {bounds.key_length} are allowed")


def _check_tensor(key: str, shape: tuple[int, ...], nbytes: int, bounds: Bounds) -> None:
    if not 1 <= len(shape) <= bounds.rank:
        raise MalformedMessage(f"variant {key!r}: {len(shape)} axes, 1 to {bounds.rank} are allowed")
    if nbytes > bounds.tensor_bytes:
        raise MalformedMessage(f"variant {key!r}: {nbytes} bytes, at most {bounds.tensor_bytes} are allowed")


def _check_strings(key: str, strings: list[str], bounds: Bounds) -> None:
    if len(strings) > bounds.strings:
        raise MalformedMessage(f"variant {key!r}: {len(strings)} strings, at most {bounds.strings} are allowed")
    for text in strings:
        if not isinstance(text, str):
            raise MalformedMessage(f"variant {key!r}: {type(text).__name__} in a list of strings")
        if len(text) > bounds.string_length:
            raise MalformedMessage(f"variant {key!r}: string of {len(text)}, at most {bounds.string_length} allowed")


def _check_total(entries: Mapping[str, Entry], bounds: Bounds) -> None:
    total = sum(sum(map(len, e)) if isinstance(e, list) else e.nbytes for e in entries.values())
    if total > bounds.total_bytes:
        largest = max(entries, key=lambda key: getattr(entries[key], "nbytes", 0))
        raise MalformedMessage(
            f"{total} bytes in all, at most {bounds.total_bytes} are allowed; the largest is {largest!r}"
        )
