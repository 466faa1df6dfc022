"""Camera pictures as ROS messages carry them: raw encodings and compressed files."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from inference_service.core.batch import UInt8

RawEncoding = Literal["rgb8", "bgr8", "rgba8", "bgra8", "mono8"]
FileFormat = Literal["jpeg", "png"]

DEFAULT_SIZE = (480, 640)
"""Height and width in pixels."""

_ORDER = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, 3), "bgra8": (2, 1, 0, 3)}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""
_JPEG_QUALITY = 90


def encode_raw(picture: UInt8, encoding: RawEncoding) -> UInt8:
    """(H, W, 3) RGB as (H, W, C) in a ``sensor_msgs/msg/Image`` encoding; alpha is 255."""
    if encoding == "rgb8":
        return picture
    if encoding == "mono8":
        return np.round(picture @ _LUMA).astype(np.uint8)[..., None]
    order = _ORDER[encoding]
    if len(order) == 4:
        picture = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    return np.ascontiguousarray(picture[..., order])


def encode_file(picture: UInt8, file_format: FileFormat) -> bytes:
    """(H, W, 3) RGB as the bytes of a JPEG (quality 90, lossy) or PNG (exact) file."""
    buffer = io.BytesIO()
    if file_format == "png":
        Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
