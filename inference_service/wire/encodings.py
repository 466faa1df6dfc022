"""Codecs of the extended form: tensors as bytes, each described by one JSON object in ``task.encoding``.

========  ==================  ============================  ====================================================
codec     takes               payload                       object
========  ==================  ============================  ====================================================
``f32``   anything            the plain form                none
``f16``   float32             IEEE half precision           key, codec, shape
``u8``    affine image        the pixels, exact             key, codec, shape (H, W, C), norm, offset, scale
``jpeg``  affine image        a JPEG file (lossy), or the   the same and ``bytes``, the file's length
                              one that the camera sent
``bool``  bool, many axes     flat ``bool_array``           key, codec, shape
========  ==================  ============================  ====================================================

Byte payloads travel as ``int_32_array`` (a variant has no bytes), zero-padded to a multiple of 4, little endian.
``norm``, ``offset`` and ``scale`` are those of :class:`~inference_service.core.batch.ImageNorm`; JSON carries
Python floats exactly, so the receiver materialises the very same float32 tensor.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import AffineImage, JpegImage, UInt8, Value, materialise
from inference_service.core.errors import MalformedMessage
from inference_service.core.image_norm import ImageNorm, NormKind
from inference_service.wire.variants import Bounds, Entry

CodecName = Literal["f32", "f16", "u8", "jpeg"]
SUPPORTED_CODECS: tuple[CodecName, ...] = get_args(CodecName)
_WIRE_CODECS = ("f16", "u8", "jpeg", "bool")
_IMAGE_CODECS = ("u8", "jpeg")
_MAX_CHANNELS = 16
_PLAIN = ImageNorm()
_COMMON = {"key", "codec", "shape"}
_OBJECT_KEYS = {
    "f16": _COMMON,
    "bool": _COMMON,
    "u8": _COMMON | {"norm", "offset", "scale"},
    "jpeg": _COMMON | {"norm", "offset", "scale", "bytes"},
}


@dataclass(frozen=True)
class Codec:
    """How to send one tensor. ``quality`` (1 to 95) is JPEG's and means nothing to the others."""

    name: CodecName = "f32"
    quality: int = 90

    @classmethod
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> Codec:
        """From ``f32``, ``f16``, ``u8``, ``jpeg`` or ``jpeg:85``. Raises ValueError naming the known ones."""
        match = re.fullmatch(r"(f32|f16|u8|jpeg)(?::(\d+))?", text)
        if match is None or (match[2] and match[1] != "jpeg"):
            raise ValueError(f"unknown codec {text!r}: known are {', '.join(SUPPORTED_CODECS)} and jpeg:<quality>")
        quality = int(match[2] or cls.quality)
        if not 1 <= quality <= 95:
            raise ValueError(f"codec {text!r}: quality runs from 1 to 95")
        return cls(cast(CodecName, match[1]), quality)


@dataclass(frozen=True)
class Encoding:
    """One object of ``task.encoding``. ``size`` is the payload's length in bytes, without padding."""

    key: str
    codec: str
    shape: tuple[int, ...]
    size: int
    norm: ImageNorm = _PLAIN

    def to_json(self) -> str:
        """One JSON object; floats read back bit for bit."""
        return _to_json(self)


# Cached, as is reading it: what a camera's pictures are like is the same from one request to the next.
@lru_cache(maxsize=128)
def _to_json(encoding: Encoding) -> str:
    fields: dict[str, Any] = {"key": encoding.key, "codec": encoding.codec, "shape": encoding.shape}
    if encoding.codec in _IMAGE_CODECS:
        fields.update(norm=encoding.norm.kind, offset=encoding.norm.offset, scale=encoding.norm.scale)
    if encoding.codec == "jpeg":
        fields["bytes"] = encoding.size
    return json.dumps(fields, allow_nan=False)


def encode(key: str, value: Value, codec: Codec | None = None) -> tuple[Entry, Encoding | None]:
    """What travels for one tensor: the payload, and its object (None for the plain form).

    Raises:
        MalformedMessage: the codec cannot carry this value; it is named.
    """
    name = codec.name if codec else "f32"
    if name in _IMAGE_CODECS:
        return _encode_image(key, value, codec or Codec())
    if isinstance(value, list):
        return value, None
    array = materialise(value)
    if name == "f16":
        return _encode_half(key, array)
    if codec is not None and array.dtype == np.bool_ and array.ndim != 1:
        return array.reshape(-1), Encoding(key, "bool", array.shape, array.size)
    return array, None


def _encode_image(key: str, value: Value, codec: Codec) -> tuple[Entry, Encoding]:
    if not isinstance(value, AffineImage):
        raise MalformedMessage(f"{key!r}: codec {codec.name} carries uint8 images, this is no affine image: use f32")
    if isinstance(value, JpegImage) and codec.name == "jpeg":
        data, shape = value.picture.data, (value.picture.height, value.picture.width, 3)
        return _as_int32(data), Encoding(key, "jpeg", shape, data.size, value.norm)
    pixels = value.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise MalformedMessage(f"{key!r}: an affine image is uint8 (H, W, C), not {pixels.dtype} {pixels.shape}")
    data = np.ascontiguousarray(pixels).reshape(-1) if codec.name == "u8" else _to_jpeg(key, pixels, codec.quality)
    return _as_int32(data), Encoding(key, codec.name, pixels.shape, data.size, value.norm)


def _encode_half(key: str, array: NDArray[Any]) -> tuple[Entry, Encoding]:
    if array.dtype != np.float32:
        raise MalformedMessage(f"{key!r}: codec f16 carries float32, not {array.dtype}: use f32")
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise MalformedMessage(f"{key!r}: a value is not finite, or beyond the 65504 that f16 carries: use f32")
    return _as_int32(half.reshape(-1).view(np.uint8)), Encoding(key, "f16", array.shape, half.nbytes)


def _as_int32(data: UInt8) -> NDArray[np.int32]:
    """Flat bytes as int32, copied only where their number is no multiple of 4."""
    if data.size % 4:
        data = np.concatenate([data, np.zeros(-data.size % 4, np.uint8)])
    return data.view(np.int32)


def _to_jpeg(key: str, pixels: UInt8, quality: int) -> UInt8:
    from PIL import Image  # only who chose jpeg pays for the import

    if pixels.shape[2] not in (1, 3):
        raise MalformedMessage(f"{key!r}: jpeg carries 1 or 3 channels, not {pixels.shape[2]}: use u8")
    file = io.BytesIO()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    picture.save(file, "JPEG", quality=quality)
    return np.frombuffer(file.getbuffer(), np.uint8)


def parse_encodings(objects: list[str], bounds: Bounds) -> list[Encoding]:
    """The objects of ``task.encoding``, each checked against ``bounds`` and all together too.

    Raises:
        MalformedMessage: no JSON, unknown codec or field, a key twice, or a claim outside ``bounds``.
    """
    encodings = [_parse_object(text, bounds) for text in objects]
    keys = [encoding.key for encoding in encodings]
    if len(set(keys)) != len(keys):
        raise MalformedMessage(f"task.encoding describes a tensor twice: {', '.join(sorted(keys))}")
    total = sum(prod(encoding.shape) * 4 for encoding in encodings)
    if total > bounds.total_bytes:
        raise MalformedMessage(f"task.encoding claims {total} bytes, at most {bounds.total_bytes} are allowed")
    return encodings


@lru_cache(maxsize=128)
def _parse_object(text: str, bounds: Bounds) -> Encoding:
    try:
        fields = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"task.encoding: {text[:80]!r} is no JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("key"), str):
        raise MalformedMessage(f"task.encoding: {text[:80]!r} names no key")
    key, codec = fields["key"], fields.get("codec")
    if codec not in _WIRE_CODECS:
        raise MalformedMessage(f"task.encoding: {key!r}: unknown codec {str(codec)[:32]!r}")
    if set(fields) != _OBJECT_KEYS[codec]:
        raise MalformedMessage(f"task.encoding: {key!r}: codec {codec} has {sorted(_OBJECT_KEYS[codec])}")
    shape = _shape(key, fields["shape"], bounds)
    if codec not in _IMAGE_CODECS:
        return Encoding(key, codec, shape, prod(shape) * (2 if codec == "f16" else 1))
    if len(shape) != 3 or shape[2] > _MAX_CHANNELS:
        raise MalformedMessage(f"task.encoding: {key!r}: shape {list(shape)} is no image (H, W, C)")
    size = prod(shape) if codec == "u8" else fields["bytes"]
    if type(size) is not int or not 0 < size <= bounds.tensor_bytes:
        raise MalformedMessage(f"task.encoding: {key!r}: bytes is {str(size)[:32]!r}")
    return Encoding(key, codec, shape, size, _norm(key, fields, shape[2]))


def _shape(key: str, sizes: object, bounds: Bounds) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= bounds.rank:
        raise MalformedMessage(f"task.encoding: {key!r}: shape has 1 to {bounds.rank} axes")
    if any(type(size) is not int or size < 1 for size in sizes) or prod(sizes) * 4 > bounds.tensor_bytes:
        raise MalformedMessage(f"task.encoding: {key!r}: shape {str(sizes)[:64]} is outside the bounds")
    return tuple(sizes)


def _norm(key: str, fields: Mapping[str, Any], channels: int) -> ImageNorm:
    kind = fields["norm"]
    if kind not in get_args(NormKind):
        raise MalformedMessage(f"task.encoding: {key!r}: unknown norm {str(kind)[:32]!r}")
    offset, scale = (_floats(key, name, fields[name]) for name in ("offset", "scale"))
    if {len(offset), len(scale)} != {0 if kind == "identity" else channels}:
        raise MalformedMessage(f"task.encoding: {key!r}: norm {kind} of {channels} channels wants as many numbers")
    if any(np.float32(value) == 0 for value in scale):
        raise MalformedMessage(f"task.encoding: {key!r}: scale holds a zero")
    return ImageNorm(kind, offset, scale)


def _floats(key: str, name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > _MAX_CHANNELS:
        raise MalformedMessage(f"task.encoding: {key!r}: {name} is no list of numbers")
    limit = float(np.finfo(np.float32).max)
    if any(type(value) not in (int, float) or not abs(value) <= limit for value in values):
        raise MalformedMessage(f"task.encoding: {key!r}: {name} holds something that is no float32")
    return tuple(float(value) for value in values)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def decode(encoding: Encoding, payload: Entry) -> Value:
    """The tensor that ``payload`` stands for. A ``u8`` image's pixels are a view into the message.

    Raises:
        MalformedMessage: the payload's length is not what the object says, or a JPEG does not decode to its shape.
    """
    if encoding.codec == "bool":
        return _flags(encoding, payload)
    if not isinstance(payload, np.ndarray) or payload.dtype != np.int32 or payload.ndim != 1:
        raise MalformedMessage(f"{encoding.key!r}: an encoded tensor is an int_32_array of one axis")
    if payload.size != (encoding.size + 3) // 4:
        raise MalformedMessage(f"{encoding.key!r}: {payload.nbytes} bytes for {encoding.size} that are claimed")
    data = payload.view(np.uint8)[: encoding.size]
    if encoding.codec == "f16":
        return data.view(np.float16).astype(np.float32).reshape(encoding.shape)
    pixels = data.reshape(encoding.shape) if encoding.codec == "u8" else _from_jpeg(encoding, data)
    return AffineImage(pixels, encoding.norm)


def _flags(encoding: Encoding, payload: Entry) -> NDArray[Any]:
    if not isinstance(payload, np.ndarray) or payload.dtype != np.bool_ or payload.size != encoding.size:
        raise MalformedMessage(f"{encoding.key!r}: codec bool wants a bool_array of {encoding.size}")
    return payload.reshape(encoding.shape)


def _from_jpeg(encoding: Encoding, data: UInt8) -> UInt8:
    from PIL import Image

    height, width, channels = encoding.shape
    try:
        with Image.open(io.BytesIO(data.data), formats=("JPEG",)) as picture:  # reads the header only
            if picture.size != (width, height) or picture.mode != {1: "L", 3: "RGB"}.get(channels):
                found = f"{picture.mode} {picture.height}x{picture.width}"
                raise MalformedMessage(f"{encoding.key!r}: the jpeg is {found}, the shape {list(encoding.shape)}")
            return np.asarray(picture).reshape(encoding.shape)
    except MalformedMessage:
        raise
    except Exception as error:  # whatever Pillow raises on hostile bytes, the message is at fault
        raise MalformedMessage(f"{encoding.key!r}: the jpeg does not decode: {error}") from error
