"""Pictures resized as torch and LeRobot resize them."""

from __future__ import annotations

import numpy as np
import pytest

from inference_service.backends.compiled.images import as_layout, image_tensor, resize, resize_with_pad
from inference_service.core.batch import AffineImage

SIZES = [((12, 16), (16, 16)), ((30, 20), (16, 16)), ((480, 640), (224, 224)), ((7, 9), (7, 9)), ((5, 5), (11, 6))]


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, *size), np.float32)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_bilinear_as_torch(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.interpolate(torch.from_numpy(picture(size)), wanted, mode="bilinear")
    np.testing.assert_allclose(resize(picture(size), *wanted), expected.numpy(), atol=2e-5)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_padding_as_lerobot(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lerobot")
    from lerobot.policies.common.vla_utils import resize_with_pad_torch

    expected = resize_with_pad_torch(torch.from_numpy(picture(size)), *wanted).numpy()
    np.testing.assert_allclose(resize_with_pad(picture(size), *wanted), expected, atol=2e-5)


def test_tensors_and_layouts() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    tensor = image_tensor(AffineImage(pixels))
    assert tensor.shape == (1, 3, 4, 6)
    assert np.array_equal(image_tensor(tensor[0]), tensor)
    nhwc = as_layout(tensor, "NHWC", np.dtype(np.float16))
    assert nhwc.shape == (1, 4, 6, 3) and nhwc.dtype == np.float16 and nhwc.flags.c_contiguous
    assert np.array_equal(nhwc[0], (pixels / np.float32(255)).astype(np.float16))
    with pytest.raises(ValueError, match="one picture"):
        image_tensor(np.zeros((2, 3, 4, 6), np.float32))
