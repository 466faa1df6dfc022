"""ROS messages to observation values."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from inference_service.core.errors import InvalidObservation, MissingObservation
from inference_service.nodes.decoding import (
    decode_compressed_image,
    decode_image,
    decode_joint_state,
    decode_multi_array,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 5, 3), np.uint8)


def image(data: np.ndarray, encoding: str) -> SimpleNamespace:
    height, width = data.shape[:2]
    channels = data.shape[2] if data.ndim == 3 else 1
    fields = {"height": height, "width": width, "encoding": encoding, "step": width * channels}
    return SimpleNamespace(**fields, data=np.ascontiguousarray(data).reshape(-1))


def changed(**changes: object) -> SimpleNamespace:
    message = image(RGB, "rgb8")
    vars(message).update(changes)
    return message


def test_rgb8_is_a_view_of_the_message() -> None:
    message = image(RGB, "rgb8")
    decoded = decode_image(message, "/cam")
    np.testing.assert_array_equal(decoded, RGB)
    assert np.shares_memory(decoded, message.data)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("bgr8", RGB[:, :, ::-1]),
        ("8UC3", RGB[:, :, ::-1]),
        ("8UC4", np.dstack([RGB[:, :, ::-1], np.full((4, 5), 9, np.uint8)])),
        ("rgba8", np.dstack([RGB, np.full((4, 5), 9, np.uint8)])),
        ("bgra8", np.dstack([RGB[:, :, ::-1], np.full((4, 5), 9, np.uint8)])),
    ],
)
def test_encodings_become_rgb(encoding: str, data: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_image(image(data, encoding), "/cam"), RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_one_channel_fills_all(encoding: str) -> None:
    decoded = decode_image(image(RGB[:, :, 0], encoding), "/cam")
    np.testing.assert_array_equal(decoded, np.repeat(RGB[:, :, :1], 3, axis=2))


def _depth(values: np.ndarray, encoding: str, bigendian: int = 0) -> SimpleNamespace:
    height, width = values.shape
    data = np.zeros((height, width * values.itemsize + 3), np.uint8)  # rows are padded, to an odd length
    data[:, :-3] = np.ascontiguousarray(values).view(np.uint8)
    step = data.shape[1]
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, step=step, data=data.reshape(-1), is_bigendian=bigendian
    )


@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
@pytest.mark.parametrize(("order", "bigendian"), [("<u2", 0), (">u2", 1)])
def test_depth_in_millimetres_becomes_grey(encoding: str, order: str, bigendian: int) -> None:
    depth = np.array([[0, 5_000, 10_000], [20_000, 39, 65_535]], order)
    decoded = decode_image(_depth(depth, encoding, bigendian), "/depth")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[:, :, 0], [[0, 128, 255], [255, 1, 255]])
    np.testing.assert_array_equal(decoded[:, :, 1:], decoded[:, :, :2])


def test_depth_in_metres_becomes_grey_and_what_was_not_measured_is_zero() -> None:
    depth = np.array([[0.0, 25.0, 50.0, 99.0], [np.nan, np.inf, -np.inf, -1.0]], "<f4")
    decoded = decode_image(_depth(depth, "32FC1"), "/depth")
    np.testing.assert_array_equal(decoded[:, :, 2], [[0, 128, 255, 255], [0, 0, 0, 0]])


def test_a_depth_picture_that_does_not_add_up_is_refused() -> None:
    message = _depth(np.zeros((2, 3), "<u2"), "16UC1")
    message.step = 5
    with pytest.raises(InvalidObservation, match=r"/depth: 3x2 16UC1 with step 5 does not fit 18 bytes"):
        decode_image(message, "/depth")


def test_rows_may_be_padded() -> None:
    padded = np.zeros((4, 20), np.uint8)
    padded[:, :15] = RGB.reshape(4, 15)
    message = SimpleNamespace(height=4, width=5, encoding="rgb8", step=20, data=padded.reshape(-1))
    np.testing.assert_array_equal(decode_image(message, "/cam"), RGB)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "yuv422"}, "yuv422"),
        ({"height": 5}, "does not fit"),
        ({"step": 3}, "does not fit"),
        ({"height": 0, "data": np.empty(0, np.uint8)}, "does not fit"),
        ({"height": 2**31, "width": 2**31}, "does not fit"),
    ],
)
def test_a_picture_that_does_not_add_up_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidObservation, match=says) as caught:
        decode_image(changed(**changes), "/cam")
    assert "/cam" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_compressed_pictures(kind: str) -> None:
    flat = np.full((16, 24, 3), (200, 40, 90), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, kind)
    message = SimpleNamespace(format=kind.lower(), data=np.frombuffer(buffer.getvalue(), np.uint8))
    decoded = decode_compressed_image(message, "/cam")
    assert decoded.shape == (16, 24, 3)
    np.testing.assert_allclose(decoded, flat, atol=4)


def test_corrupt_compressed_data_is_refused() -> None:
    message = SimpleNamespace(format="jpeg", data=np.arange(50, dtype=np.uint8))
    with pytest.raises(InvalidObservation, match="/cam"):
        decode_compressed_image(message, "/cam")


def joints(**changes: object) -> SimpleNamespace:
    fields = {"name": ["a", "b", "c"], "position": np.array([1.0, 2.0, 3.0]), "velocity": np.array([4.0, 5.0, 6.0])}
    return SimpleNamespace(**{**fields, "effort": np.empty(0), **changes})


def test_joints_are_taken_by_name_not_by_place() -> None:
    got = decode_joint_state(joints(), ["position.c", "velocity.a", "b"], "/joint_states")
    np.testing.assert_array_equal(got, np.array([3.0, 4.0, 2.0], np.float32))
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("message", "name", "error", "says"),
    [
        (joints(), "position.d", MissingObservation, "'d'"),
        (joints(), "effort.a", MissingObservation, "effort"),
        (joints(position=np.array([1.0, np.nan, 3.0])), "position.b", InvalidObservation, "position.b is not finite"),
        (joints(position=np.array([1.0, np.inf, 3.0])), "position.b", InvalidObservation, "position.b is not finite"),
    ],
)
def test_a_joint_at_fault_is_named(message: SimpleNamespace, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        decode_joint_state(message, [name], "/joint_states")
    assert "/joint_states" in str(caught.value)


def test_multi_array_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidObservation, match="2 values where the contract names 3"):
        decode_multi_array(SimpleNamespace(data=[1.0, 2.0]), ["x", "y", "z"], "/force")
