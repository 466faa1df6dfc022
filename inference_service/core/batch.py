"""What flows through the pipeline: features, affine images and batches.

An :class:`AffineImage` keeps a camera picture as uint8 HWC together with the per-channel affine map
that turns it into the model's float32 NCHW tensor. Who needs floats materialises them where that is
cheapest: the engine on its own device, or a device proxy whose peer understands only floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
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


@dataclass(frozen=True, eq=False)
class AffineImage:
    """One camera picture: ``pixels`` uint8 (H, W, C), and the map to the model's float32 (1, C, H, W)."""

    pixels: UInt8
    norm: ImageNorm = ImageNorm()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor this stands for: (1, C, H, W)."""
        height, width, channels = self.pixels.shape
        return (1, channels, height, width)

    def materialise(self) -> Float32:
        """The model's tensor, (1, C, H, W) float32, contiguous."""
        height, width, channels = self.pixels.shape
        table = self.norm.table(channels)
        out = np.empty((1, channels, height, width), np.float32)
        for c in range(channels):
            np.take(table[:, c], self.pixels[:, :, c], out=out[0, c])
        return out


# One entry of a batch. Arrays carry their batch axis; strings are one prompt per batch row.
# `Any` stands for a torch tensor handed over by a caller that lives in torch.
Value = Union[NDArray[Any], AffineImage, "list[str]", Any]
Batch = dict[str, Value]
# What the robot gave, before preprocessing: images uint8 (H, W, 3) RGB, vectors float32 (D,), `task` a str.
Observation = Mapping[str, Any]


def materialise(value: Value) -> NDArray[Any]:
    """``value`` as a plain array, an affine image turned into its float32 NCHW tensor."""
    return value.materialise() if isinstance(value, AffineImage) else np.asarray(value)
