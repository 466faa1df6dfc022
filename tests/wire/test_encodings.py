"""Codecs: u8 is exact, every claim is checked against the payload before it is believed."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from wire_rig import MEAN_STD, MIN_MAX, over_the_wire, picture

from inference_service.core.batch import AffineImage
from inference_service.core.errors import MalformedMessage
from inference_service.core.image_norm import ImageNorm
from inference_service.wire.encodings import SUPPORTED_CODECS, Codec, decode, encode, parse_encodings
from inference_service.wire.variants import DEFAULT_BOUNDS, Bounds, from_variants, to_variants


def trip(value: object, codec: str) -> object:
    payload, encoding = encode("k", value, Codec.parse(codec))
    received = from_variants(over_the_wire(to_variants({"k": payload})))["k"]
    if encoding is None:
        return received
    return decode(parse_encodings([encoding.to_json()], DEFAULT_BOUNDS)[0], received)


def claim(**changes: object) -> str:
    """The JSON object of a good (4, 5, 3) image, changed; None takes a field away."""
    fields = {"key": "k", "codec": "u8", "shape": [4, 5, 3], "norm": "identity", "offset": [], "scale": []}
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not None})


NORMS = [ImageNorm(), MEAN_STD, MIN_MAX]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.kind)
@pytest.mark.parametrize("shape", [(12, 7, 3), (5, 9, 3), (1, 1, 3), (2, 3, 3), (480, 640, 3)])
def test_u8_is_exact_bit_for_bit(shape: tuple[int, int, int], norm: ImageNorm):
    image = AffineImage(picture(*shape), norm)
    back = trip(image, "u8")
    assert back.norm == norm
    assert back.pixels.tobytes() == image.pixels.tobytes()
    assert back.materialise().tobytes() == image.materialise().tobytes()


def test_u8_keeps_norms_that_decimals_would_round():
    offset = tuple(float(np.float32(x)) for x in np.random.default_rng(1).random(3))
    scale = tuple(float(np.nextafter(np.float32(x), np.float32(1))) for x in (0.1, 1e-30, 0.3))
    image = AffineImage(picture(), ImageNorm("mean_std", offset, scale))
    assert trip(image, "u8").norm == image.norm


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_u8_carries_other_channels(channels: int):
    image = AffineImage(picture(3, 3, channels))
    np.testing.assert_array_equal(trip(image, "u8").pixels, image.pixels)


def test_u8_is_a_view_at_both_ends():
    pixels = picture(4, 4)
    payload, encoding = encode("k", AffineImage(pixels), Codec("u8"))
    assert np.shares_memory(payload, pixels)
    back = decode(encoding, payload)
    assert np.shares_memory(back.pixels, pixels)


def test_u8_of_a_cropped_picture_travels_by_value():
    pixels = picture(20, 30)[3:9, 4:17, ::-1]
    np.testing.assert_array_equal(trip(AffineImage(pixels), "u8").pixels, pixels)


def test_f16_is_half_precision():
    value = np.random.default_rng(0).normal(size=(1, 3, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(trip(value, "f16"), value.astype(np.float16).astype(np.float32))
    image = AffineImage(picture(), MEAN_STD)
    np.testing.assert_allclose(trip(image, "f16"), image.materialise(), rtol=1e-3, atol=1e-3)


def test_jpeg_is_close_and_keeps_the_norm():
    gradient = np.stack([*np.meshgrid(np.arange(64), np.arange(48)), np.full((48, 64), 90)], -1).astype(np.uint8)
    back = trip(AffineImage(gradient, MEAN_STD), "jpeg:95")
    assert back.norm == MEAN_STD and back.pixels.dtype == np.uint8
    assert np.abs(back.pixels.astype(int) - gradient).max() <= 12


def test_jpeg_carries_grey_and_its_quality_counts():
    grey = picture(40, 40, 1)
    assert trip(AffineImage(grey), "jpeg").pixels.shape == (40, 40, 1)
    sizes = [encode("k", AffineImage(grey), Codec("jpeg", quality))[1].size for quality in (20, 90)]
    assert sizes[0] < sizes[1]


def test_f32_is_the_plain_form():
    image = AffineImage(picture(), MEAN_STD)
    payload, encoding = encode("k", image, Codec("f32"))
    assert encoding is None
    assert payload.tobytes() == image.materialise().tobytes() and payload.shape == (1, 3, 12, 7)


def test_a_bool_mask_keeps_its_batch_axis():
    mask = np.array([[True, True, False]])
    np.testing.assert_array_equal(trip(mask, "f32"), mask, strict=True)


@pytest.mark.parametrize("text", ["u9", "", "u8:3", "jpeg:0", "jpeg:96", "jpeg:x", "JPEG"])
def test_an_unknown_codec_is_named(text: str):
    with pytest.raises(ValueError, match="codec"):
        Codec.parse(text)


def test_supported_codecs_parse():
    assert [Codec.parse(name).name for name in SUPPORTED_CODECS] == list(SUPPORTED_CODECS)
    assert Codec.parse("jpeg:70") == Codec("jpeg", 70)


@pytest.mark.parametrize(
    ("value", "codec", "complaint"),
    [
        (np.zeros((1, 6), np.float32), "u8", "no affine image"),
        (["text"], "jpeg", "no affine image"),
        (AffineImage(np.zeros((2, 2, 3), np.float32)), "u8", "uint8"),
        (AffineImage(np.zeros((2, 2), np.uint8)), "u8", "uint8"),
        (AffineImage(picture(2, 2, 4)), "jpeg", "4: use u8"),
        (np.zeros((1, 6)), "f16", "float64"),
        (np.full((1, 2), 7e4, np.float32), "f16", "65504"),
        (np.full((1, 2), np.nan, np.float32), "f16", "finite"),
    ],
)
def test_what_a_codec_cannot_carry_is_named(value: object, codec: str, complaint: str):
    with pytest.raises(MalformedMessage, match=f"'k'.*{complaint}"):
        encode("k", value, Codec.parse(codec))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 5000,
        '{"a":' * 5000,
        "null",
        claim(key=None),
        claim(key=5),
        claim(codec=None),
        claim(codec="zip"),
        claim(codec="f32"),
        claim(codec=["u8"]),
        claim(shape=None),
        claim(extra=1),
        claim(bytes=60),
        claim(shape=[]),
        claim(shape="4x5"),
        claim(shape=[4, 5]),
        claim(shape=[4, 5, 3, 1]),
        claim(shape=[4, 5, 17]),
        claim(shape=[4, 0, 3]),
        claim(shape=[4, -5, -3]),
        claim(shape=[4.0, 5, 3]),
        claim(shape=[True, 5, 3]),
        claim(shape=[10**30, 5, 3]),
        claim(shape=[4096, 4097, 1]),
        claim(norm="log"),
        claim(norm={}),
        claim(norm="mean_std"),
        claim(norm="mean_std", offset=[0, 0], scale=[1, 1]),
        claim(norm="mean_std", offset=[0, 0, 0], scale=[1, 1]),
        claim(norm="mean_std", offset=[0, 0, 0], scale=[1, 0, 1]),
        claim(norm="mean_std", offset=[0, 0, 0], scale=[1, 1e-60, 1]),
        claim(norm="mean_std", offset=[0, 0, 0], scale=[1, 1e60, 1]),
        claim(norm="mean_std", offset=[0, 0, 0], scale=[1, float("nan"), 1]),
        claim(norm="mean_std", offset=[0, 0, float("inf")], scale=[1, 1, 1]),
        claim(norm="mean_std", offset=[0, 0, "0"], scale=[1, 1, 1]),
        claim(norm="mean_std", offset=[0, 0, True], scale=[1, 1, 1]),
        claim(norm="mean_std", offset={"0": 1}, scale=[1, 1, 1]),
        claim(offset=[0, 0, 0]),
        claim(codec="jpeg"),
        claim(codec="jpeg", bytes=0),
        claim(codec="jpeg", bytes=-1),
        claim(codec="jpeg", bytes=1.5),
        claim(codec="jpeg", bytes=10**12),
        claim(codec="f16"),
    ],
    ids=lambda text: text[:60],
)
def test_garbled_objects_are_refused(text: str):
    with pytest.raises(MalformedMessage, match=r"task\.encoding"):
        parse_encodings([text], DEFAULT_BOUNDS)


def test_a_number_too_long_for_python_is_refused():
    with pytest.raises(MalformedMessage, match=r"task\.encoding"):
        parse_encodings([claim(shape=[4, 5, 3]).replace("4,", "4" * 5000 + ",")], DEFAULT_BOUNDS)


def test_the_same_tensor_twice_is_refused():
    with pytest.raises(MalformedMessage, match="twice"):
        parse_encodings([claim(), claim()], DEFAULT_BOUNDS)


def test_claims_are_bounded_together_too():
    bounds = Bounds(total_bytes=4 * 5 * 3 * 4 * 2)
    assert len(parse_encodings([claim(), claim(key="b")], bounds)) == 2
    with pytest.raises(MalformedMessage, match="720 bytes"):
        parse_encodings([claim(), claim(key="b"), claim(key="c")], bounds)


@pytest.mark.parametrize(
    "payload",
    [
        np.zeros(14, np.int32),
        np.zeros(16, np.int32),
        np.zeros(0, np.int32),
        np.zeros((1, 15), np.int32),
        np.zeros(15, np.float32),
        ["x"] * 15,
    ],
)
def test_a_payload_of_another_length_or_type_is_refused(payload: object):
    (encoding,) = parse_encodings([claim()], DEFAULT_BOUNDS)
    with pytest.raises(MalformedMessage, match="'k'"):
        decode(encoding, payload)


def jpeg_payload(data: bytes, shape: list[int]) -> object:
    (encoding,) = parse_encodings([claim(codec="jpeg", shape=shape, bytes=len(data))], DEFAULT_BOUNDS)
    padded = data + bytes(-len(data) % 4)
    return decode(encoding, np.frombuffer(padded, np.int32))


def jpeg_file(height: int, width: int, file_format: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (jpeg_file(8, 9), "8x9"),
        (jpeg_file(9, 8, mode="L"), "L 9x8"),
        (jpeg_file(9, 8, mode="CMYK"), "CMYK"),
        (jpeg_file(9, 8, "PNG"), "does not decode"),
        (jpeg_file(9, 8)[:-200], "does not decode"),
        (jpeg_file(9, 8)[:30], "does not decode"),
        (b"text", "does not decode"),
    ],
    ids=["size", "grey", "cmyk", "png", "cut", "header", "text"],
)
def test_a_jpeg_that_is_not_what_it_claims_is_refused(data: bytes, complaint: str):
    with pytest.raises(MalformedMessage, match=f"'k'.*{complaint}"):
        jpeg_payload(data, [9, 8, 3])


@pytest.mark.parametrize("side", [3000, 65535])
def test_a_decompression_bomb_is_refused_by_its_header(side: int, recwarn: pytest.WarningsRecorder):
    """A file of some hundred bytes whose header says up to 4 gigapixels, claimed as 9 x 8."""
    data = jpeg_file(9, 8)
    start = data.index(b"\xff\xc0") + 5
    bomb = data[:start] + struct.pack(">HH", side, side) + data[start + 4 :]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="'k'"):
            jpeg_payload(bomb, [9, 8, 3])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
