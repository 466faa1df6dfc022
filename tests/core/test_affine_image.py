"""Affine images: pixels until somebody needs floats, then exactly the floats of the formula."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from inference_service.core import batch
from inference_service.core.batch import AffineImage, ImageNorm

MEAN = tuple(map(float, np.float32([0.485, 0.456, 0.406])))
STD = tuple(map(float, np.float32([0.229, 0.224, 0.225])))
NORMS = [ImageNorm(), ImageNorm("mean_std", MEAN, STD), ImageNorm("min_max", MEAN, STD)]
SIZES = [(96, 128), (97, 129), (1, 1), (33, 1), (480, 640), (32, 5)]


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def by_formula(pixels: np.ndarray, norm: ImageNorm) -> np.ndarray:
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)
    if norm.kind == "identity":
        return x
    offset, scale = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (norm.offset, norm.scale))
    return (x - offset) / scale if norm.kind == "mean_std" else 2 * (x - offset) / scale - 1


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.kind)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_materialise_equals_the_formula(norm: ImageNorm, height: int, width: int) -> None:
    image = AffineImage(picture(height, width), norm)
    floats = image.materialise()
    assert floats.shape == image.shape == (1, 3, height, width)
    assert floats.flags.c_contiguous
    assert np.array_equal(floats.view(np.uint32), by_formula(image.pixels, norm).view(np.uint32))


def test_every_pixel_value_of_every_channel_is_exact() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for norm in NORMS:
        floats = AffineImage(pixels, norm).materialise()
        assert np.array_equal(floats, by_formula(pixels, norm))


def test_strided_pixels() -> None:
    pixels = picture(70, 91)[::-1, ::3, ::-1]
    assert np.array_equal(AffineImage(pixels, NORMS[1]).materialise(), by_formula(pixels, NORMS[1]))


def test_one_channel() -> None:
    norm = ImageNorm("mean_std", (0.5,), (0.25,))
    pixels = picture(7, 9, channels=1)
    assert np.array_equal(AffineImage(pixels, norm).materialise(), by_formula(pixels, norm))


def test_materialise_into_a_callers_buffer() -> None:
    image = AffineImage(picture(97, 129), NORMS[1])
    buffer = np.full((2, *image.shape[1:]), np.nan, np.float32)
    out = image.materialise(out=buffer[1:])
    assert np.shares_memory(out, buffer)
    assert np.array_equal(buffer[1:], image.materialise())
    assert np.isnan(buffer[0]).all()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((1, 3, 8, 9), np.float32),
        np.empty((1, 3, 9, 8), np.float64),
        np.empty((1, 9, 8, 3), np.float32).transpose(0, 3, 1, 2),
    ],
    ids=["shape", "dtype", "layout"],
)
def test_a_buffer_that_does_not_fit_is_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="out must be contiguous float32"):
        AffineImage(picture(9, 8)).materialise(out=out)


def test_norm_of_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="3 offsets and 3 scales for 1 channels"):
        AffineImage(picture(4, 4, channels=1), NORMS[1]).materialise()


@pytest.mark.parametrize("busy", [False, True], ids=["a second thread helps", "it never gets its turn"])
def test_a_large_picture_on_two_threads_is_the_same_bit_for_bit(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (481, 639, 3), np.uint8)
    image = AffineImage(pixels, ImageNorm("mean_std", (0.5, 0.25, 0.75), (0.2, 0.3, 0.4)))
    monkeypatch.setattr(batch, "_cores", lambda: 1)
    alone = image.materialise()
    monkeypatch.setattr(batch, "_cores", lambda: 2)
    go_on = threading.Event()
    if busy:
        batch._second_thread().submit(go_on.wait, 30.0)
    try:
        assert np.array_equal(image.materialise().view(np.uint32), alone.view(np.uint32))
    finally:
        go_on.set()
    expected = image.norm.table(3)[pixels, np.arange(3)].transpose(2, 0, 1)[None]
    assert np.array_equal(alone.view(np.uint32), expected.view(np.uint32))
