"""Single values of an envelope, read out of a message's entries: each checked, and named where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import numpy as np

from inference_service.core.errors import MalformedMessage
from inference_service.wire.variants import Entry

ID_LENGTH = 128


def one_string(entries: Mapping[str, Entry], key: str, *, empty: bool = False, length: int = ID_LENGTH) -> str:
    """The only string under ``key``, of 1 to ``length`` characters (0 where it may be ``empty``)."""
    values = present(entries, key)
    if not isinstance(values, list) or len(values) != 1:
        raise MalformedMessage(f"{key!r} is no list of one string")
    if len(values[0]) > length or not (values[0] or empty):
        raise MalformedMessage(f"{key!r} has {len(values[0])} characters, {0 if empty else 1} to {length} are allowed")
    return values[0]


def one_integer(entries: Mapping[str, Entry], key: str) -> int:
    """The only int64 under ``key``."""
    values = present(entries, key)
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (1,):
        raise MalformedMessage(f"{key!r} is no int64 array of one")
    return int(values[0])


def numbers(entries: Mapping[str, Entry], key: str, count: int) -> list[float]:
    """``count`` finite float64 under ``key``."""
    values = present(entries, key)
    if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != (count,):
        raise MalformedMessage(f"{key!r} is no float64 array of {count}")
    numbers = [float(value) for value in values]
    if not all(isfinite(number) for number in numbers):
        raise MalformedMessage(f"{key!r} is not finite")
    return numbers


def present(entries: Mapping[str, Entry], key: str) -> Entry:
    """What is under ``key``. This and the others raise MalformedMessage, naming the key."""
    if key not in entries:
        raise MalformedMessage(f"{key!r} is missing")
    return entries[key]


def bounded(entries: Mapping[str, Entry], key: str, most: int) -> int:
    """The only int64 under ``key``, from 0 to ``most``."""
    return checked(key, one_integer(entries, key), most)


def checked(key: str, number: int, most: int) -> int:
    """``number``, from 0 to ``most``."""
    if not 0 <= number <= most:
        raise MalformedMessage(f"{key!r} is {number}, 0 to {most} are allowed")
    return number
