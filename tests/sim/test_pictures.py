"""What leaves as a message is the picture that was rendered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from inference_service.nodes.decoding import decode_compressed_image, decode_image
from inference_service.sim.pictures import encode_file, encode_raw

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_raw_encodings_are_exact(encoding: str) -> None:
    pixels = encode_raw(PICTURE, encoding)  # type: ignore[arg-type]
    height, width, channels = pixels.shape
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=width * channels, data=pixels.reshape(-1)
    )
    np.testing.assert_array_equal(decode_image(message, "/camera"), PICTURE)


def test_channel_order_is_what_the_name_says() -> None:
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    assert encode_raw(red, "bgra8").tolist() == [[[0, 0, 200, 255]]]
    assert encode_raw(red, "mono8").tolist() == [[[60]]]


def test_png_is_exact_and_jpeg_is_close() -> None:
    def through(file_format: str) -> np.ndarray:
        data = encode_file(smooth, file_format)  # type: ignore[arg-type]
        message = SimpleNamespace(format=file_format, data=np.frombuffer(data, np.uint8))
        return decode_compressed_image(message, "/camera")

    smooth = np.repeat(np.repeat(PICTURE[::8, ::8], 8, axis=0), 8, axis=1)
    np.testing.assert_array_equal(through("png"), smooth)
    assert np.abs(through("jpeg").astype(int) - smooth).mean() < 12
