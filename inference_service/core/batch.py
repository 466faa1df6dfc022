"""What flows through the pipeline: features, affine images and batches.

An :class:`AffineImage` keeps a camera picture as uint8 HWC together with the per-channel affine map
that turns it into the model's float32 NCHW tensor. Who needs floats materialises them where that is
cheapest: the engine on its own device, or a device proxy whose peer understands only floats.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


class FeatureType(str, Enum):
    """LeRobot's feature types, as they stand in ``config.json``."""

    VISUAL = "VISUAL"
    STATE = "STATE"
    ENV = "ENV"
    ACTION = "ACTION"
    LANGUAGE = "LANGUAGE"


@dataclass(frozen=True)
class Feature:
    """One input or output of a policy.

    ``shape`` is LeRobot's: without the batch axis, images as (C, H, W).
    """

    name: str
    type: FeatureType
    shape: tuple[int, ...]


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


_PLAIN = ImageNorm()


@dataclass(frozen=True, eq=False)
class AffineImage:
    """One camera picture: ``pixels`` uint8 (H, W, C), and the map to the model's float32 (1, C, H, W)."""

    pixels: UInt8
    norm: ImageNorm = _PLAIN

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor this stands for: (1, C, H, W)."""
        height, width, channels = self.pixels.shape
        return (1, channels, height, width)

    def with_norm(self, norm: ImageNorm) -> AffineImage:
        """The same picture, meant otherwise."""
        return AffineImage(self.pixels, norm)

    def materialise(self, out: Float32 | None = None) -> Float32:
        """The model's tensor, (1, C, H, W) float32, contiguous; written into ``out`` where given.

        Raises:
            ValueError: ``out`` has another shape or dtype, or is not contiguous.
        """
        if out is None:
            out = np.empty(self.shape, np.float32)
        elif out.shape != self.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous float32 {self.shape}, got {out.dtype} {out.shape}")
        _fill(out[0], self.pixels, self.norm)
        return out


@dataclass(frozen=True, eq=False)
class JpegPicture:
    """A camera's picture as it came: a JPEG file of (height, width) RGB. ``decode`` gives its uint8 (H, W, 3)."""

    data: UInt8
    height: int
    width: int
    decode: Callable[[], UInt8]


class JpegImage(AffineImage):
    """An affine image whose pixels are still a JPEG file, decoded when somebody asks for them."""

    picture: JpegPicture

    def __init__(self, picture: JpegPicture, norm: ImageNorm = _PLAIN) -> None:
        object.__setattr__(self, "picture", picture)
        object.__setattr__(self, "norm", norm)

    @cached_property
    def pixels(self) -> UInt8:
        return self.picture.decode()

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 3, self.picture.height, self.picture.width)

    def with_norm(self, norm: ImageNorm) -> AffineImage:
        return JpegImage(self.picture, norm)


_BLOCK = 1 << 17
"""Values that are worked on at a time: their floats stay in the cache from one operation to the next."""
_WORTH_A_THREAD = 1 << 18
"""Values of a picture from which on two threads are faster than one."""


def _fill(out: Float32, pixels: UInt8, norm: ImageNorm) -> None:
    """``out`` (C, H, W): the model's values of ``pixels`` (H, W, C)."""
    height, width, channels = pixels.shape
    operations = _operations(norm, channels)
    rows = max(1, min(height, _BLOCK // max(1, width * channels)))
    blocks = iter(range(0, height, rows))
    if pixels.size < _WORTH_A_THREAD or _cores() < 2:
        _fill_blocks(out, pixels, operations, blocks, rows)
        return
    # Block by block, so that a second thread which is kept waiting for a core keeps nobody waiting.
    other = _second_thread().submit(_fill_blocks, out, pixels, operations, blocks, rows)
    _fill_blocks(out, pixels, operations, blocks, rows)
    if not other.cancel():
        other.result()


def _fill_blocks(
    out: Float32, pixels: UInt8, operations: Sequence[tuple[np.ufunc, Float32]], blocks: Iterator[int], rows: int
) -> None:
    """Blocks of ``rows`` rows as long as there are any; two threads may share ``blocks``."""
    planes = np.empty((len(out), rows, out.shape[2]), np.uint8)
    for row in blocks:
        block = out[:, row : row + rows]
        bytes_ = planes[:, : block.shape[1]]
        # Apart first and then to floats: bytes that are not neighbours are cheaper to gather than floats.
        np.copyto(bytes_, pixels[row : row + rows].transpose(2, 0, 1))
        np.copyto(block, bytes_)
        for operation, operand in operations:
            operation(block, operand, out=block)


@lru_cache(maxsize=1)
def _second_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "pictures")


@lru_cache(maxsize=1)
def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# One entry of a batch. Arrays carry their batch axis; strings are one prompt per batch row.
# `Any` stands for a torch tensor handed over by a caller that lives in torch.
Value = Union[NDArray[Any], AffineImage, "list[str]", Any]
Batch = dict[str, Value]
# What the robot gave, before preprocessing: images uint8 (H, W, 3) RGB or a JpegPicture, vectors float32 (D,), `task`
# a str.
Observation = Mapping[str, Any]


def materialise(value: Value) -> NDArray[Any]:
    """``value`` as a plain array, an affine image turned into its float32 NCHW tensor."""
    return value.materialise() if isinstance(value, AffineImage) else np.asarray(value)
