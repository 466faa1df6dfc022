"""What the tests of the wire share: golden bytes, sample requests, a trip over the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from inference_service.core.batch import AffineImage
from inference_service.core.image_norm import ImageNorm
from inference_service.wire.envelope import Request, encode_request
from inference_service.wire.interfaces import deserialize, serialize
from inference_service.wire.variants import VARIANTS_LIST

GOLDEN = Path(__file__).parent.parent / "golden"
GOLDEN_TYPES: dict[str, str] = {
    name: entry["type"] for name, entry in json.loads((GOLDEN / "manifest.json").read_text())["files"].items()
}
MEAN_STD = ImageNorm("mean_std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MIN_MAX = ImageNorm("min_max", (0.1, 0.0, 1 / 3), (0.7, 1.0, float(np.float32(0.9))))


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.cdr").read_bytes()


def over_the_wire(variants: Any) -> Any:
    """The VariantsList after it has been bytes."""
    return deserialize(bytes(serialize(variants, VARIANTS_LIST)), VARIANTS_LIST)


def picture(height: int = 12, width: int = 7, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def sample_request(**changes: Any) -> Request:
    batch = {
        "observation.state": np.linspace(-1, 1, 6, dtype=np.float32)[None],
        "observation.images.top": AffineImage(picture(), MEAN_STD),
        "observation.images.wrist": AffineImage(picture(5, 9, seed=1), MIN_MAX),
    }
    fields: dict[str, Any] = {
        "request_id": "0a1b2c3d",
        "batch": batch,
        "device_id": "arm@1",
        "session": "5e5510",
        "sequence": 2**40 + 1,
        "deadline_ms": 187.25,
        "obs_stamp_ns": 1_700_000_000_123_456_789,
        "fingerprint": "f00d",
        "prompt": "pick the cube",
    }
    return Request(**{**fields, **changes})


def sample_bytes(codec: str = "u8") -> bytes:
    request = sample_request()
    codecs = {key: codec for key in request.batch if "images" in key}
    return bytes(serialize(encode_request(request, extended=True, codecs=codecs), VARIANTS_LIST))
