"""The bilinear resize against torch's, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.resize import resize_bilinear, resize_with_pad

SIZES = [
    ((480, 640), (96, 128)),
    ((480, 640), (224, 224)),
    ((480, 640), (240, 320)),
    ((480, 640), (300, 400)),
    ((480, 640), (100, 77)),
    ((720, 1280), (256, 256)),
    ((37, 53), (64, 80)),
    ((5, 7), (1, 1)),
    ((1, 1), (4, 3)),
    ((96, 640), (96, 128)),
]


def picture(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, channels), dtype=np.uint8)


def torch_resize(image: np.ndarray, size: tuple[int, int], threads: int = 1) -> np.ndarray:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        y = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return y.round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_equals_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch rounds ties otherwise on a CPU without FMA")
    image = picture(source)
    assert np.array_equal(resize_bilinear(image, *target), torch_resize(image, target))


def test_equals_torch_for_one_channel() -> None:
    pytest.importorskip("torch")
    image = picture((60, 80), channels=1)
    difference = resize_bilinear(image, 33, 47).astype(int) - torch_resize(image, (33, 47))
    assert np.abs(difference).max() <= 1


def test_whole_scales_pick_pixels() -> None:
    """480x640 to 96x128 needs no interpolation: each output pixel is the middle one of five by five."""
    image = picture((480, 640))
    assert np.array_equal(resize_bilinear(image, 96, 128), image[2::5, 2::5])


def test_halving_averages_and_rounds_half_to_even() -> None:
    image = np.array([[0, 1], [1, 0]], np.uint8)[..., None]  # mean 0.5
    assert resize_bilinear(image, 1, 1).item() == 0
    assert resize_bilinear(image + 1, 1, 1).item() == 2  # mean 1.5


def test_same_size_is_the_same_memory() -> None:
    image = picture((96, 128))
    assert resize_bilinear(image, 96, 128) is image


def test_a_view_with_strides_gives_the_same_as_its_copy() -> None:
    image = picture((60, 80))
    view = image[::-1, ::2, ::-1]
    assert np.array_equal(resize_bilinear(view, 33, 21), resize_bilinear(view.copy(), 33, 21))


def test_source_is_left_alone() -> None:
    image = picture((60, 80))
    before = image.copy()
    resize_bilinear(image, 33, 47)[:] = 0
    assert np.array_equal(image, before)


def test_torch_on_more_threads_differs_at_a_few_ties_only() -> None:
    """torch takes another kernel on several threads, whose rounding errors decide ties otherwise."""
    pytest.importorskip("torch")
    image = picture((480, 640))
    difference = resize_bilinear(image, 224, 224).astype(int) - torch_resize(image, (224, 224), threads=2)
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) < 1e-3 * difference.size


def test_torch_without_fma_differs_at_a_few_ties_only() -> None:
    pytest.importorskip("torch")
    code = (
        "import numpy as np; from test_resize import picture, torch_resize; "
        "from inference_service.core.resize import resize_bilinear; image = picture((480, 640)); "
        "d = resize_bilinear(image, 224, 224).astype(int) - torch_resize(image, (224, 224)); "
        "assert abs(d).max() <= 1 and (d != 0).mean() < 1e-3, ((d != 0).sum(), abs(d).max())"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=100)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (97, 131), (224, 224), (300, 300), (30, 1000), (100, 100)])
@pytest.mark.parametrize("target", [(224, 224), (512, 384)])
def test_fitting_equals_the_models_own_but_for_rounding(size: tuple[int, int], target: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lerobot")
    from lerobot.policies.common.vla_utils import resize_with_pad as left_and_top
    from lerobot.policies.common.vla_utils import resize_with_pad_torch as both_sides

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    floats = torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    theirs = {
        True: both_sides(floats.permute(0, 2, 3, 1), *target)[0].numpy(),
        False: left_and_top(floats, *target, pad_value=0)[0].permute(1, 2, 0).numpy(),
    }
    for centred, expected in theirs.items():
        mine = resize_with_pad(pixels, *target, centred=centred) / np.float32(255)
        assert mine.shape == expected.shape
        assert np.abs(mine - expected).max() <= 0.5 / 255 + 1e-6
        # black stays black, to the pixel
        assert np.array_equal(mine.any(axis=(1, 2)), expected.any(axis=(1, 2)))
        assert np.array_equal(mine.any(axis=(0, 2)), expected.any(axis=(0, 2)))
