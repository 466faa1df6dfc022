"""What flows through the pipeline: features, affine images and batches.

An :class:`AffineImage` keeps a camera picture as uint8 HWC together with the per-channel affine map
that turns it into the model's float32 NCHW tensor. Who needs floats materialises them where that is
cheapest: the engine on its own device, or a device proxy whose peer understands only floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from inference_service.core.image_norm import PLAIN_NORM, ImageNorm, fill_planes
from inference_service.core.image_norm import Float32 as Float32
from inference_service.core.image_norm import UInt8 as UInt8


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


@dataclass(frozen=True, eq=False)
class AffineImage:
    """One camera picture: ``pixels`` uint8 (H, W, C), and the map to the model's float32 (1, C, H, W)."""

    pixels: UInt8
    norm: ImageNorm = PLAIN_NORM

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
        fill_planes(out[0], self.pixels, self.norm)
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

    def __init__(self, picture: JpegPicture, norm: ImageNorm = PLAIN_NORM) -> None:
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
