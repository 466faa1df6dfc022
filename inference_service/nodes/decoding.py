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

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_TO_RGB = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}


def decode_image(message: Any, topic: str) -> UInt8:
    """A ``sensor_msgs/msg/Image`` as (H, W, 3) RGB; a view of the message where the layout allows it.

    Raises:
        InvalidObservation: unknown encoding, or height, width, step and data length do not agree.
    """
    encoding = message.encoding.lower()
    if encoding not in _CHANNELS:
        raise InvalidObservation(f"{topic}: encoding {message.encoding!r} is not one of {', '.join(_CHANNELS)}")
    channels, height, width, step = _CHANNELS[encoding], int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    if not 0 < height * width <= MAX_PIXELS or step < width * channels or data.size != step * height:
        raise InvalidObservation(
            f"{topic}: {width}x{height} {encoding} with step {step} does not fit {data.size} bytes of data"
        )
    pixels: UInt8 = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if encoding == "rgb8":
        return pixels
    return np.ascontiguousarray(pixels[:, :, _TO_RGB[encoding]])


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
        what = ", ".join(names[i] if i < len(names) else str(i) for i in bad)
        raise InvalidObservation(f"{topic}: {what} is not finite")
    return values
