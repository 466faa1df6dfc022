"""Bilinear resize of uint8 images, equal to torch's to the last bit.

The reference is ``torch.nn.functional.interpolate(x.float(), size, mode="bilinear", align_corners=False)``
(no antialias), rounded half to even, on one thread of a CPU with FMA. On several threads or without FMA torch
takes other kernels, which differ from this one by 1 where the exact value lies on a rounding tie (about one
value in ten thousand). torch's kernel for uint8 tensors and PIL, which antialiases, differ by much more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import Float32, UInt8

Index = NDArray[np.intp]

# Output values computed at a time; keeps the intermediate floats in the processor's cache.
_BLOCK = 32768
# Single precision over four products of at most 255 errs by less than 1e-4.
_DOUBTFUL = np.float32(0.5 - 2e-4)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Source indices ``first``, ``second`` and their float32 weights ``near``, ``far``, one per output index.

    ``copies``: every output is one input. ``exact``: weights so short that float32 products and sums do not round.
    """

    first: Index
    second: Index
    near: Float32
    far: Float32

    @property
    def copies(self) -> bool:
        return not self.far.any()

    @property
    def exact(self) -> bool:
        return bool((self.far * 256 % 1 == 0).all())


def resize_bilinear(image: UInt8, height: int, width: int) -> UInt8:
    """``image`` (H, W, C) uint8 as (height, width, C); ``image`` itself where the size is right already."""
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[2]
    rows, columns = _axis(image.shape[0], height, 1), _axis(image.shape[1], width, channels)
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    if rows.copies and columns.copies:
        return flat.take(rows.first, axis=0).take(columns.first, axis=1).reshape(height, width, channels)
    out = np.empty((height, width * channels), np.uint8)
    step = max(1, _BLOCK // out.shape[1])
    for start in range(0, height, step):
        block = slice(start, start + step)
        part = _Axis(rows.first[block], rows.second[block], rows.near[block, None], rows.far[block, None])
        _interpolate(flat, part, columns, out[block], check=not (rows.exact and columns.exact))
    return out.reshape(height, width, channels)


def resize_with_pad(image: UInt8, height: int, width: int, centred: bool) -> UInt8:
    """``image`` (H, W, C) uint8 as large as fits into (height, width, C), its proportions kept, the rest black.

    ``centred``: black on both sides, as pi0 and its kin (``resize_with_pad_torch``); else on the left and the top, as
    SmolVLA (``resize_with_pad``; both in ``lerobot/policies/common/vla_utils.py``, 0.6.1). They do it on floats: the
    difference is the rounding to uint8, at most half a step of 1/255.
    """
    if image.shape[:2] == (height, width):
        return image
    ratio = max(image.shape[1] / width, image.shape[0] / height)
    inner = resize_bilinear(image, int(image.shape[0] / ratio), int(image.shape[1] / ratio))
    top, left = height - inner.shape[0], width - inner.shape[1]
    if centred:
        top, left = top // 2, left // 2
    out = np.zeros((height, width, image.shape[2]), np.uint8)
    out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


@lru_cache(maxsize=64)
def _axis(size: int, target: int, channels: int) -> _Axis:
    """Torch's ``area_pixel_compute_source_index``; with ``channels`` interleaved values per index.

    The fused multiply-add that computes the source position is done in float64, where it is exact.
    """
    scale = np.float32(size) / np.float32(target)
    position = (np.float64(scale) * (np.arange(target) + 0.5) - 0.5).astype(np.float32).clip(min=0)
    first = np.minimum(position.astype(np.intp), size - 1)
    second = np.minimum(first + 1, size - 1)
    far = (position - first.astype(np.float32)).clip(0, 1).astype(np.float32)
    each = np.arange(channels)
    return _Axis(
        (first[:, None] * channels + each).ravel(),
        (second[:, None] * channels + each).ravel(),
        np.repeat(np.float32(1) - far, channels),
        np.repeat(far, channels),
    )


def _interpolate(flat: UInt8, rows: _Axis, columns: _Axis, out: UInt8, check: bool) -> None:
    """Fill ``out``; with ``check``, values too close to a rounding tie are computed again as torch does."""
    upper, lower = flat.take(rows.first, axis=0), flat.take(rows.second, axis=0)
    corners = [row.take(column, axis=1) for row in (upper, lower) for column in (columns.first, columns.second)]
    value = corners[0] * columns.near
    value += corners[1] * columns.far
    below = corners[2] * columns.near
    below += corners[3] * columns.far
    value *= rows.near
    below *= rows.far
    value += below
    rounded = np.rint(value)
    out[...] = rounded
    if check:
        value -= rounded
        doubtful = np.nonzero(np.abs(value, out=value) > _DOUBTFUL)
        out[doubtful] = _as_torch([corner[doubtful] for corner in corners], rows, columns, *doubtful)


def _as_torch(corners: list[UInt8], rows: _Axis, columns: _Axis, y: Index, x: Index) -> Any:
    """Torch's order of operations: ``fma(v11, w11, fma(v10, w10, fma(v00, w00, v01 * w01)))`` in float32.

    At a mathematical tie its rounding errors decide, so they are repeated here: each fused step is exact in
    float64 and rounded once to float32.
    """
    near_y, far_y = rows.near[y, 0], rows.far[y, 0]
    near_x, far_x = columns.near[x], columns.far[x]
    v00, v01, v10, v11 = (corner.astype(np.float64) for corner in corners)
    total = (v01 * (near_y * far_x)).astype(np.float32)
    for value, weight in ((v00, near_y * near_x), (v10, far_y * near_x), (v11, far_y * far_x)):
        total = (value * weight + total).astype(np.float32)
    return np.rint(total)
