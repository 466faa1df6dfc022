"""Pictures for a compiled model: materialised, resized where they must be, in its layout and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import AffineImage, Float32, Value


def image_tensor(value: Value) -> Float32:
    """``value`` as contiguous float32 (1, C, H, W); a tensor without batch axis gets one.

    Raises:
        ValueError: not one picture.
    """
    if isinstance(value, AffineImage):
        return value.materialise()
    array = np.ascontiguousarray(value, np.float32)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[0] != 1:
        raise ValueError(f"expected one picture (1, C, H, W), got {array.shape}")
    return array


def resize(image: Float32, height: int, width: int) -> Float32:
    """Bilinear, as torch's ``interpolate(mode="bilinear", align_corners=False)`` without antialiasing."""
    if image.shape[2:] == (height, width):
        return image
    top, bottom, down = _neighbours(image.shape[2], height)
    left, right, across = _neighbours(image.shape[3], width)
    rows = image[:, :, top] * (1 - down)[:, None] + image[:, :, bottom] * down[:, None]
    return np.asarray(rows[..., left] * (1 - across) + rows[..., right] * across, np.float32)


def resize_with_pad(image: Float32, height: int, width: int) -> Float32:
    """Resized to fit into (height, width), in the middle of black: openpi's ``resize_with_pad`` on values in [0, 1]."""
    if image.shape[2:] == (height, width):
        return image
    ratio = max(image.shape[3] / width, image.shape[2] / height)
    inner = resize(image, int(image.shape[2] / ratio), int(image.shape[3] / ratio)).clip(0.0, 1.0)
    padded = np.zeros((*image.shape[:2], height, width), np.float32)
    top, left = (height - inner.shape[2]) // 2, (width - inner.shape[3]) // 2
    padded[:, :, top : top + inner.shape[2], left : left + inner.shape[3]] = inner
    return padded


def _neighbours(size: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Indices of both source pixels of every wanted one, and the weight of the second."""
    place = (
        (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(size / wanted) - np.float32(0.5)
    ).clip(0)
    first = np.minimum(place.astype(np.intp), size - 1)
    weight = (place - first).astype(np.float32)
    return first, np.minimum(first + 1, size - 1), weight


def as_layout(image: Float32, layout: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """``image`` (1, C, H, W), contiguous in ``layout`` and of ``dtype``."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1) if layout == "NHWC" else image, dtype)
