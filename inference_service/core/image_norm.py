"""What a picture's bytes mean to a model, and the making of its floats from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference_service.core import pixel_kernel

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

NormKind = Literal["identity", "mean_std", "min_max"]


@dataclass(frozen=True)
class ImageNorm:
    """Affine map from ``x = uint8 / 255`` to the model's value, per channel, in float32.

    ==========  =====================================  ==============================
    kind        formula                                offset, scale
    ==========  =====================================  ==============================
    identity    ``x``                                  unused
    mean_std    ``(x - offset) / scale``               mean, ``std + eps``
    min_max     ``2 * (x - offset) / scale - 1``       min (q01), ``max - min`` or eps
    ==========  =====================================  ==============================

    Same operations in the same order as LeRobot's ``NormalizerProcessorStep``, so results are equal
    bit for bit. Tuples hold exact float32 values, one per channel.
    """

    kind: NormKind = "identity"
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def table(self, channels: int) -> Float32:
        """(256, channels) float32: the model's value for every uint8 value of every channel. Read-only."""
        return _norm_table(self, channels)


@lru_cache(maxsize=64)
def _operations(norm: ImageNorm, channels: int) -> tuple[tuple[np.ufunc, Float32], ...]:
    """What makes a byte the model's value, in order, one rounding each; operands (channels, 1, 1)."""
    byte = (np.divide, _column(255, channels))
    if norm.kind == "identity":
        return (byte,)
    if len(norm.offset) != channels or len(norm.scale) != channels:
        raise ValueError(
            f"image norm has {len(norm.offset)} offsets and {len(norm.scale)} scales for {channels} channels"
        )
    offset, scale = (np.subtract, _column(norm.offset, channels)), (np.divide, _column(norm.scale, channels))
    if norm.kind == "mean_std":
        return byte, offset, scale
    return byte, offset, (np.multiply, _column(2, channels)), scale, (np.subtract, _column(1, channels))


def _column(values: object, channels: int) -> Float32:
    return np.broadcast_to(np.asarray(values, np.float32), (channels,)).reshape(channels, 1, 1)


@lru_cache(maxsize=64)
def _norm_table(norm: ImageNorm, channels: int) -> Float32:
    x = np.repeat(np.arange(256, dtype=np.float32)[None, :, None], channels, axis=0)
    for operation, operand in _operations(norm, channels):
        operation(x, operand, out=x)
    table = np.ascontiguousarray(x[:, :, 0].T)
    table.flags.writeable = False
    return table


PLAIN_NORM = ImageNorm()


_kernel = pixel_kernel.load()
_BLOCK = 1 << 17
"""Values that are worked on at a time: their floats stay in the cache from one operation to the next."""
_WORTH_A_THREAD = 1 << 18
"""Values of a picture from which on two threads are faster than one."""

# Fills rows of the planes (C, rows, W) from as many of the picture (rows, W, C).
_FillRows = Callable[[Float32, UInt8], None]


def fill_planes(out: Float32, pixels: UInt8, norm: ImageNorm) -> None:
    """``out`` (C, H, W), contiguous: the model's values of ``pixels`` (H, W, C)."""
    height, width, channels = pixels.shape
    rows = max(1, min(height, _BLOCK // max(1, width * channels)))
    blocks = iter(range(0, height, rows))

    def fill_blocks() -> None:
        fill = _rows_filler(pixels, norm, rows)
        for row in blocks:
            fill(out[:, row : row + rows], pixels[row : row + rows])

    if pixels.size < _WORTH_A_THREAD or _cores() < 2:
        fill_blocks()
        return
    # Block by block, so that a second thread which is kept waiting for a core keeps nobody waiting.
    other = _second_thread().submit(fill_blocks)
    fill_blocks()
    if not other.cancel():
        other.result()


def _rows_filler(pixels: UInt8, norm: ImageNorm, rows: int) -> _FillRows:
    """What fills up to ``rows`` rows of ``pixels`` at a time, for one thread."""
    channels = pixels.shape[2]
    if _kernel is not None and pixels.strides[1:] == (channels, 1):
        return partial(_fill_by_kernel, _kernel, _tables(norm, channels))
    scratch = np.empty((channels, rows, pixels.shape[1]), np.uint8)
    return partial(_fill_by_numpy, _operations(norm, channels), scratch)


def _fill_by_kernel(kernel: pixel_kernel.PlanesKernel, tables: Float32, out: Float32, pixels: UInt8) -> None:
    rows, columns, channels = pixels.shape
    stride, plane = pixels.strides[0], out.strides[0] // out.itemsize
    kernel(pixels.ctypes.data, stride, tables.ctypes.data, out.ctypes.data, plane, rows, columns, channels)


def _fill_by_numpy(operations: Sequence[tuple[np.ufunc, Float32]], scratch: UInt8, out: Float32, pixels: UInt8) -> None:
    planes = scratch[:, : len(pixels)]
    # Apart first and then to floats: bytes that are not neighbours are cheaper to gather than floats.
    np.copyto(planes, pixels.transpose(2, 0, 1))
    np.copyto(out, planes)
    for operation, operand in operations:
        operation(out, operand, out=out)


@lru_cache(maxsize=64)
def _tables(norm: ImageNorm, channels: int) -> Float32:
    """(channels, 256): :meth:`ImageNorm.table`, each channel's values neighbours."""
    return np.ascontiguousarray(norm.table(channels).T)


@lru_cache(maxsize=1)
def _second_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pictures")


@lru_cache(maxsize=1)
def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
