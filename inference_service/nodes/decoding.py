"""From ROS messages to observation values: pure functions, no transport.

Images come out as uint8 (H, W, 3) RGB, joint vectors as float32 (D,).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import Float32, JpegPicture, UInt8
from inference_service.core.errors import InvalidObservation, MissingObservation

MAX_PIXELS = 16_000_000
"""A picture larger than this is refused before anything is allocated."""

_RGB, _BGR, _GREY = (0, 1, 2), (2, 1, 0), (0, 0, 0)
_TO_RGB = {
    "rgb8": (3, _RGB), "bgr8": (3, _BGR), "8uc3": (3, _BGR), "rgba8": (4, _RGB), "bgra8": (4, _BGR),
    "8uc4": (4, _BGR), "mono8": (1, _GREY), "8uc1": (1, _GREY),
}  # fmt: skip
"""Encoding (lower case) to bytes of a pixel and where its R, G and B stand. ``8UCn`` says no order: that of OpenCV."""

_DEPTHS = {"16uc1": ("u2", 10_000.0), "mono16": ("u2", 10_000.0), "32fc1": ("f4", 50.0)}
"""Encoding of a depth picture to its number type and what becomes 255: 10 m in millimetres, 50 m in metres. The scales
of IB-Robot's ``tensormsg``, which policies for its depth cameras were trained with."""


def decode_image(message: Any, topic: str) -> UInt8:
    """A ``sensor_msgs/msg/Image`` as (H, W, 3) RGB; a view of the message where the layout allows it.

    Depth pictures (``16UC1`` in mm, ``32FC1`` in m) become grey: 0 to 10 m, or 0 to 50 m, as 0 to 255, farther ones
    255. Where no depth was measured (0, or not finite) it is 0.

    Raises:
        InvalidObservation: unknown encoding, or height, width, step and data length do not agree.
    """
    encoding = message.encoding.lower()
    if encoding in _DEPTHS:
        return _decode_depth(message, encoding, topic)
    if encoding not in _TO_RGB:
        known = ", ".join((*_TO_RGB, *_DEPTHS))
        raise InvalidObservation(f"{topic}: encoding {message.encoding!r} is not one of {known}")
    channels, order = _TO_RGB[encoding]
    pixels: UInt8 = _rows(message, channels, topic).reshape(int(message.height), int(message.width), channels)
    if encoding == "rgb8":
        return pixels
    return np.ascontiguousarray(pixels[:, :, order])


def _rows(message: Any, pixel_bytes: int, topic: str) -> UInt8:
    """(height, width * pixel_bytes) of the message's data, without the padding at the end of rows."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    if not 0 < height * width <= MAX_PIXELS or step < width * pixel_bytes or data.size != step * height:
        raise InvalidObservation(
            f"{topic}: {width}x{height} {message.encoding} with step {step} does not fit {data.size} bytes of data"
        )
    return data.reshape(height, step)[:, : width * pixel_bytes]


def _decode_depth(message: Any, encoding: str, topic: str) -> UInt8:
    number, full = _DEPTHS[encoding]
    order = ">" if getattr(message, "is_bigendian", 0) else "<"
    rows = _rows(message, int(number[1]), topic)
    depth = np.ascontiguousarray(rows).view(f"{order}{number}").astype(np.float32)
    depth[~np.isfinite(depth)] = 0
    grey = np.rint(np.clip(depth, 0, full) * np.float32(255 / full)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def decode_compressed_image(message: Any, topic: str) -> UInt8:
    """A ``sensor_msgs/msg/CompressedImage`` (jpeg or png) as (H, W, 3) RGB.

    Raises:
        InvalidObservation: another format, corrupt data, or more than ``MAX_PIXELS`` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InvalidObservation(f"{topic}: {picture.width}x{picture.height} exceeds {MAX_PIXELS} pixels")
            return np.asarray(picture.convert("RGB"), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InvalidObservation(f"{topic}: {message.format!r} data is not a jpeg or png picture: {error}") from error


def jpeg_picture(message: Any, topic: str) -> JpegPicture | None:
    """The JPEG file in a ``sensor_msgs/msg/CompressedImage``, its header read and its pixels not; None for anything
    else than a whole file of an RGB picture. Its ``decode`` raises as :func:`decode_compressed_image` does."""
    from PIL import Image

    data = np.asarray(message.data, np.uint8)
    if not data[-64:].tobytes().rstrip(b"\0").endswith(b"\xff\xd9"):  # the end of a JPEG; cameras may pad it
        return None
    try:
        with Image.open(io.BytesIO(data.data), formats=("JPEG",)) as picture:
            width, height, mode = picture.width, picture.height, picture.mode
    except (OSError, SyntaxError):
        return None
    if mode != "RGB" or not 0 < width * height <= MAX_PIXELS:
        return None
    return JpegPicture(data, height, width, lambda: decode_compressed_image(message, topic))


def decode_joint_state(message: Any, names: Sequence[str], topic: str) -> Float32:
    """The parts of a ``sensor_msgs/msg/JointState`` that ``names`` select, float32 (len(names),).

    A name is ``field.joint`` with field position, velocity or effort; without a field, position.

    Raises:
        MissingObservation: a joint that the message does not hold, or a field without values.
        InvalidObservation: not finite.
    """
    index = {name: i for i, name in enumerate(message.name)}
    values = np.empty(len(names), np.float32)
    for i, selector in enumerate(names):
        field, _, joint = selector.rpartition(".")
        field = field or "position"
        if joint not in index:
            raise MissingObservation(f"{topic}: joint {joint!r} is not in the message (it has {', '.join(index)})")
        column = getattr(message, field)
        if len(column) <= index[joint]:
            raise MissingObservation(f"{topic}: no {field} for joint {joint!r}")
        values[i] = column[index[joint]]
    return _finite(values, names, topic)


def decode_multi_array(message: Any, names: Sequence[str], topic: str) -> Float32:
    """A ``std_msgs/msg/Float32MultiArray`` or ``Float64MultiArray`` as float32 (D,)."""
    values = np.asarray(message.data, np.float32).reshape(-1)
    if names and values.size != len(names):
        raise InvalidObservation(f"{topic}: {values.size} values where the contract names {len(names)}")
    return _finite(values, names, topic)


def _finite(values: NDArray[np.float32], names: Sequence[str], topic: str) -> Float32:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        what = ", ".join(names[i] if i < len(names) else str(i) for i in bad.tolist())
        raise InvalidObservation(f"{topic}: {what} is not finite")
    return values
