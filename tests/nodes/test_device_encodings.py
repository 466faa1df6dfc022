"""How pictures travel: by configuration, as far as the engine goes along; a camera's JPEG as it came."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from inference_service.core.batch import AffineImage, JpegImage, JpegPicture
from inference_service.core.errors import InvalidObservation
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.decoding import decode_compressed_image, jpeg_picture
from inference_service.nodes.device_encodings import Encodings
from inference_service.wire.encodings import SUPPORTED_CODECS, Codec
from inference_service.wire.envelope import Request, decode_request, encode_request
from robot_config.section import Encoding
from tests.nodes.harness import POLICY

TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"
LOGGER = logging.getLogger("act_inference_node")


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth picture, as cameras give."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def compressed(pixels: np.ndarray, kind: str = "JPEG", padding: int = 0) -> Any:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    data = np.frombuffer(file.getvalue() + bytes(padding), np.uint8)
    return SimpleNamespace(format=kind.lower(), data=data)


def batch() -> dict[str, Any]:
    return {TOP: AffineImage(picture()), WRIST: AffineImage(picture()), STATE: np.zeros((1, 6), np.float32)}


def test_pictures_travel_exact_where_nothing_is_said() -> None:
    assert Encodings({}, LOGGER).choose(batch(), SUPPORTED_CODECS) == {TOP: "u8", WRIST: "u8"}


def test_a_cameras_own_encoding_goes_before_the_default() -> None:
    encodings = Encodings({"default": "f16", TOP: "jpeg:80"}, LOGGER)
    assert encodings.choose(batch(), SUPPORTED_CODECS) == {TOP: "jpeg:80", WRIST: "f16"}
    assert encodings.is_jpeg(TOP) and not encodings.is_jpeg(WRIST)
    assert Encodings({"default": "f32"}, LOGGER).choose(batch(), SUPPORTED_CODECS) == {}


@pytest.mark.parametrize(("offered", "instead"), [(("f32", "u8"), {TOP: "u8"}), (("f32",), {}), ((), {})])
def test_what_the_engine_does_not_take_is_sent_exactly_and_said_once(
    offered: tuple[str, ...], instead: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    encodings = Encodings({TOP: "jpeg:90"}, LOGGER, "arm.yaml:12: encodings")
    only = {TOP: AffineImage(picture())}
    assert encodings.choose(only, offered) == instead
    assert encodings.choose(only, offered) == instead
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"arm.yaml:12: encodings: the engine does not take jpeg:90 for {TOP}" in record.getMessage()


@pytest.mark.parametrize(
    "text", ["u8", "f16", "f32", "jpeg", "jpeg:1", "jpeg:95", "jpeg:0", "jpeg:96", "png", "u8:90", ""]
)
def test_the_robot_file_accepts_what_the_wire_can(text: str) -> None:
    def accepted(check: Any, refusal: type[Exception]) -> bool:
        try:
            check(text)
        except refusal:
            return False
        return True

    assert accepted(Codec.parse, ValueError) == accepted(TypeAdapter(Encoding).validate_python, ValidationError)


def observation(top: Any) -> dict[str, Any]:
    return {TOP: top, WRIST: picture(), STATE: np.zeros(6, np.float32)}


def test_a_jpeg_of_the_right_size_reaches_the_engine_byte_for_byte() -> None:
    message = compressed(picture(), padding=3)
    jpeg = jpeg_picture(message, "/camera/top")
    assert jpeg is not None
    prepared = TensorPreprocessor(PolicyFolder.load(POLICY))(observation(jpeg))
    request = Request("id", prepared.batch, device_id="d", session="s")
    sent = encode_request(request, extended=True, codecs={TOP: "jpeg:90", WRIST: "u8"})
    (payload,) = [v.int_32_array.data for v in sent.variants if v.key == TOP]
    assert payload.tobytes().startswith(message.data.tobytes())
    received = decode_request(sent).batch[TOP]
    local = TensorPreprocessor(PolicyFolder.load(POLICY))(observation(decode_compressed_image(message, "/camera/top")))
    np.testing.assert_array_equal(received.materialise(), local.batch[TOP].materialise())


def test_a_jpeg_of_another_size_is_decoded_and_resized() -> None:
    jpeg = jpeg_picture(compressed(picture(480, 640)), "/camera/top")
    prepared = TensorPreprocessor(PolicyFolder.load(POLICY))(observation(jpeg))
    image = prepared.batch[TOP]
    assert not isinstance(image, JpegImage) and image.shape == (1, 3, 96, 128)


def test_a_jpeg_for_an_engine_without_that_codec_is_decoded() -> None:
    jpeg = jpeg_picture(compressed(picture()), "/camera/top")
    assert jpeg is not None
    sent = encode_request(Request("id", {TOP: JpegImage(jpeg)}, device_id="d", session="s"), extended=True)
    assert decode_request(sent).batch[TOP].shape == (1, 3, 96, 128)


@pytest.mark.parametrize(
    "message",
    [
        compressed(picture(), "PNG"),
        compressed(picture()[:, :, 0]),
        SimpleNamespace(format="jpeg", data=compressed(picture()).data[:-40]),
        SimpleNamespace(format="jpeg", data=np.zeros(0, np.uint8)),
        SimpleNamespace(format="jpeg", data=np.frombuffer(b"no picture\xff\xd9", np.uint8)),
    ],
    ids=["png", "grey", "cut off", "empty", "no jpeg"],
)
def test_anything_but_a_whole_rgb_jpeg_is_not_passed_on(message: Any) -> None:
    assert jpeg_picture(message, "/camera/top") is None


def test_a_jpeg_whose_middle_is_broken_is_refused_where_it_is_decoded() -> None:
    broken = compressed(picture())
    broken.data = np.concatenate([broken.data[:300], np.frombuffer(b"\xff\xd9", np.uint8)])
    jpeg = jpeg_picture(broken, "/camera/top")
    if jpeg is not None:
        assert isinstance(jpeg, JpegPicture)
        with pytest.raises(InvalidObservation, match="/camera/top"):
            jpeg.decode()
