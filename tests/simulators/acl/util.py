"""``acl.util``: addresses of Python objects. The object must outlive every use of its address."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .state import HostMemory, Refused, api, simulator

_NUMPY_TYPES = {
    0: np.bool_,
    1: np.int8,
    2: np.uint8,
    3: np.int16,
    4: np.uint16,
    5: np.int32,
    6: np.uint32,
    7: np.int64,
    8: np.uint64,
    11: np.float32,
    12: np.float64,
    23: np.float16,
}


@api("util.bytes_to_ptr", fail=lambda _: 0)
def bytes_to_ptr(data: bytes) -> int:
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    with simulator.lock:
        return simulator.remember(HostMemory(address, len(data), owner=data))


@api("util.numpy_to_ptr", fail=lambda _: 0)
def numpy_to_ptr(array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise Refused(100000, "array is not contiguous", rule=9)
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    with simulator.lock:
        return simulator.remember(HostMemory(array.ctypes.data, array.nbytes, owner=owner))


@api("util.ptr_to_bytes", fail=lambda _: b"")
def ptr_to_bytes(pointer: int, count: int) -> bytes:
    simulator.host_at(pointer, count, "ptr_to_bytes")
    return ctypes.string_at(pointer, count)


@api("util.ptr_to_numpy", fail=lambda _: np.empty(0))
def ptr_to_numpy(pointer: int, shape: tuple[int, ...], number: int) -> np.ndarray:
    dtype = np.dtype(_NUMPY_TYPES[number])
    count = int(np.prod(shape)) * dtype.itemsize
    simulator.host_at(pointer, count, "ptr_to_numpy")
    return np.frombuffer((ctypes.c_uint8 * count).from_address(pointer), dtype).reshape(shape)
