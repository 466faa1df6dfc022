"""What flows through the pipeline: features, affine images and batches.

An :class:`AffineImage` keeps a camera picture as uint8 HWC together with the per-channel affine map
that turns it into the model's float32 NCHW tensor. Who needs floats materialises them where that is
cheapest: the engine on its own device, or a device proxy whose peer understands only floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
def _norm_table(norm: ImageNorm, channels: int) -> Float32:
    x = np.repeat((np.arange(256, dtype=np.float32) / np.float32(255))[:, None], channels, axis=1)
    if norm.kind != "identity":
        offset = np.asarray(norm.offset, np.float32)
        scale = np.asarray(norm.scale, np.float32)
        if offset.shape != (channels,) or scale.shape != (channels,):
            raise ValueError(f"image norm has {offset.size} offsets and {scale.size} scales for {channels} channels")
        x = (x - offset) / scale if norm.kind == "mean_std" else np.float32(2) * (x - offset) / scale - np.float32(1)
    x = np.ascontiguousarray(x, np.float32)
    x.flags.writeable = False
    return x


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
        height, _, channels = self.pixels.shape
        if out is None:
            out = np.empty(self.shape, np.float32)
        elif out.shape != self.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous float32 {self.shape}, got {out.dtype} {out.shape}")
        for channel in range(channels):
            table = _pair_table(self.norm, channels, channel)
            for row in range(0, height, _ROWS_PER_BLOCK):
                rows = slice(row, row + _ROWS_PER_BLOCK)
                _look_up(table, self.pixels[rows, :, channel], out[0, channel, rows])
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


# Even, so that only an odd last block has a pixel without neighbour; small, so that a block stays in the cache.
_ROWS_PER_BLOCK = 32


@lru_cache(maxsize=24)
def _pair_table(norm: ImageNorm, channels: int, channel: int) -> NDArray[np.uint64]:
    """(65536,): for every two neighbouring pixels of ``channel`` the bits of both floats. Half as many look-ups."""
    neighbours = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(65536, 2)
    table: NDArray[np.uint64] = norm.table(channels)[neighbours, channel].view(np.uint64).reshape(65536)
    return table


def _look_up(table: NDArray[np.uint64], pixels: UInt8, out: Float32) -> None:
    """Fill the contiguous ``out`` with the table's values for ``pixels``, both (rows, W)."""
    flat, result = np.ascontiguousarray(pixels).reshape(-1), out.reshape(-1)
    even = flat.size & ~1
    # mode="wrap" lets take write straight into `out`; 16-bit indices cannot leave the table.
    table.take(flat[:even].view(np.uint16).astype(np.intp), out=result[:even].view(np.uint64), mode="wrap")
    if even < flat.size:
        last = np.array([flat[-1], flat[-1]]).view(np.uint16)
        result[-1] = table[last].view(np.float32)[0]


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
