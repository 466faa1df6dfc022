"""Affine images: pixels until somebody needs floats, then exactly the floats of the formula."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.linalg import _umath_linalg

from inference_service.core import image_norm, pixel_kernel
from inference_service.core.batch import AffineImage
from inference_service.core.image_norm import ImageNorm

MEAN = tuple(map(float, np.float32([0.485, 0.456, 0.406])))
STD = tuple(map(float, np.float32([0.229, 0.224, 0.225])))
NORMS = [ImageNorm(), ImageNorm("mean_std", MEAN, STD), ImageNorm("min_max", MEAN, STD)]
SIZES = [(96, 128), (97, 129), (1, 1), (33, 1), (480, 640), (32, 5)]


@pytest.fixture(params=["kernel", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here holds with the compiled kernel and without."""
    if request.param == "numpy":
        monkeypatch.setattr(image_norm, "_kernel", None)
    elif image_norm._kernel is None:
        pytest.skip("pixels.c is not built here: no C compiler when this environment was made")
    return str(request.param)


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
    monkeypatch.setattr(image_norm, "_cores", lambda: 1)
    alone = image.materialise()
    monkeypatch.setattr(image_norm, "_cores", lambda: 2)
    go_on = threading.Event()
    if busy:
        image_norm._second_thread().submit(go_on.wait, 30.0)
    try:
        assert np.array_equal(image.materialise().view(np.uint32), alone.view(np.uint32))
    finally:
        go_on.set()
    expected = image.norm.table(3)[pixels, np.arange(3)].transpose(2, 0, 1)[None]
    assert np.array_equal(alone.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rows_that_lie_apart(channels: int) -> None:
    """As in a message whose rows are padded, and in a region of a picture."""
    norm = ImageNorm("mean_std", (0.5, 0.25, 0.75, 0.1)[:channels], (0.2, 0.3, 0.4, 0.5)[:channels])
    pixels = picture(21, 40, channels)[3:, 5:38]
    assert np.array_equal(AffineImage(pixels, norm).materialise(), by_formula(pixels, norm))


def test_pictures_that_lie_close_together_stay_apart() -> None:
    """Nothing is written before, between or behind the planes asked for."""
    image = AffineImage(picture(33, 47), NORMS[2])
    buffer = np.full(image.shape[1] * 33 * 47 + 2, np.nan, np.float32)
    image.materialise(out=buffer[1:-1].reshape(image.shape))
    assert np.isnan(buffer[[0, -1]]).all()
    assert not np.isnan(buffer[1:-1]).any()


def test_the_kernel_is_used_where_it_fits(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    kernel = image_norm._kernel

    def counted(*arguments: int) -> None:
        calls.append(arguments)
        assert kernel is not None
        kernel(*arguments)

    if kernel is not None:
        monkeypatch.setattr(image_norm, "_kernel", counted)
    AffineImage(picture(8, 9)).materialise()
    assert len(calls) == (1 if implementation == "kernel" else 0)
    AffineImage(picture(8, 9)[:, ::2]).materialise()
    assert len(calls) == (1 if implementation == "kernel" else 0)


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_a_library_that_is_missing_or_broken_is_done_without(content: bytes | None, tmp_path: Path) -> None:
    library = tmp_path / "pixels.abi3.so"
    if content is not None:
        library.write_bytes(content)
    assert pixel_kernel.load(library) is None


def test_a_library_of_another_version_is_done_without() -> None:
    """Any library that lacks our symbol: one of numpy's, say."""
    assert pixel_kernel.load(Path(_umath_linalg.__file__)) is None
