"""The short way to CDR and back says what the general way says, byte for byte and value for value."""

from __future__ import annotations

import numpy as np
import pytest
from test_wire_fuzz import mutations
from wire_rig import golden, sample_bytes

from inference_service.core.errors import MalformedMessage
from inference_service.wire.interfaces import _store, deserialize, serialize
from inference_service.wire.packed import (
    VARIANTS_LIST,
    VariantsList,
    _frames,
    pack,
    pack_parts,
    unpack,
    unpack_framed,
)
from inference_service.wire.variants import Bounds, from_variants, to_variants

SAMPLES = {
    "every kind": {
        "strings": ["x", "", "drüben", "abc"],
        "flags": np.array([True, False, True, True, True]),
        "i32": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
        "i64": np.array([2**40, -1]),
        "f32": np.arange(4, dtype=np.float32).reshape(2, 2),
        "f64": np.array([[0.1, np.nan, np.inf]]),
    },
    "doubles after every remainder": {"k" * n: np.array([float(n)]) for n in range(1, 10)},
    "empty": {"a": np.zeros(0), "b": np.zeros((2, 0), np.float32), "c": [], "d": np.zeros(0, np.bool_)},
    "nothing": {},
    "strided": {"k": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]},
}


def general(cdr: bytes):
    """The message as rosbags alone reads it."""
    return VariantsList(_store.deserialize_bounded(memoryview(cdr).toreadonly(), VARIANTS_LIST).variants)


def assert_same(left: dict, right: dict):
    assert list(left) == list(right)
    for key, value in left.items():
        assert type(value) is type(right[key])
        np.testing.assert_array_equal(value, right[key])
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (right[key].dtype, right[key].shape)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bytes_are_those_of_the_general_way(name: str):
    message = to_variants(SAMPLES[name])
    packed = pack(SAMPLES[name])
    assert message.variants is not None  # from now on the objects count
    assert message.entries is None
    assert bytes(serialize(message, VARIANTS_LIST)) == packed


@pytest.mark.parametrize("name", SAMPLES)
def test_the_values_are_those_of_the_general_way(name: str):
    packed = pack(SAMPLES[name])
    short = unpack(memoryview(packed))
    assert short is not None
    assert_same(short, from_variants(general(packed)))


@pytest.mark.parametrize("codec", ["u8", "jpeg", "f32"])
def test_our_own_requests_and_those_of_ib_robot_go_the_short_way(codec: str):
    assert unpack(memoryview(sample_bytes(codec))) is not None
    for name in ("variants_request_plain", "variants_reply_plain"):
        assert unpack(memoryview(golden(name))) is not None


def test_what_the_short_way_reads_of_broken_bytes_the_general_way_reads_too():
    read = 0
    for data in mutations(sample_bytes(), 3000, seed=7):
        short = unpack(memoryview(data))
        if short is None:
            continue
        read += 1
        received = _outcome(deserialize(data, VARIANTS_LIST))
        expected = _outcome(general(data))
        if isinstance(expected, dict) and isinstance(received, dict):
            assert_same(received, expected)
        else:
            assert received == expected
    assert read > 100


def _outcome(message: VariantsList):
    try:
        return from_variants(message)
    except MalformedMessage as error:
        return str(error)


def test_variants_that_were_changed_by_hand_are_what_travels():
    message = deserialize(pack({"k": ["before"]}), VARIANTS_LIST)
    message.variants[0].string_array = ["after"]
    assert from_variants(deserialize(serialize(message, VARIANTS_LIST), VARIANTS_LIST)) == {"k": ["after"]}


def test_arrays_are_views_into_the_bytes():
    cdr = pack({"k": np.arange(1000, dtype=np.int32)})
    received = unpack(memoryview(cdr))
    assert received is not None
    assert np.shares_memory(received["k"], np.frombuffer(cdr, np.uint8))


@pytest.mark.parametrize("bad", [np.zeros(2, np.uint8), np.array(1.0), np.zeros(2, ">f4")])
def test_what_no_variant_holds_is_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="'k'"):
        pack({"k": bad})


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "bool"])
def test_parts_are_the_bytes_with_large_arrays_uncopied(dtype: str):
    large = np.ones(40_000, dtype)
    entries = {"before": ["x"], "large": large, "between": np.zeros(3), "again": large}
    parts = pack_parts(entries)
    assert b"".join(memoryview(part).cast("B") for part in parts) == pack(entries)
    assert [part is large for part in parts].count(True) == 2
    assert all(memoryview(part).nbytes for part in parts)
    assert sum(memoryview(part).nbytes for part in parts) % 4 == 0


def test_a_message_in_a_known_frame_is_read_as_one_that_is_new():
    """The frame of earlier messages saves reading, and judges nothing by itself: any other byte than a value's is read
    in full, values are the new ones."""
    first, second, third = (
        pack({"name": [text], "n": np.array([number]), "x": np.full((2, 3), number, np.float32), "none": []})
        for text, number in (("aaaa", 1), ("bbbb", 2), ("cccc", 3))
    )
    for cdr in (first, second):
        assert unpack_framed(memoryview(cdr))[0] is not None
    entries, frame = unpack_framed(memoryview(third))
    assert frame is not None
    assert frame is unpack_framed(memoryview(first))[1]
    assert_same(entries, from_variants(general(third)))
    for position in range(len(third)):
        broken = bytearray(third)
        broken[position] ^= 1
        received = _outcome(deserialize(bytes(broken), VARIANTS_LIST)) if unpack(memoryview(broken)) else None
        if isinstance(received, dict):
            assert_same(received, from_variants(general(bytes(broken))))


def test_bounds_are_checked_anew_for_bools_and_for_other_bounds():
    good, bad = (pack({"flags": np.array([1, 1], np.uint8).view(np.bool_), "s": [c]}) for c in "ab")
    at = bad.index(b"\x01\x01")
    bad = bad[:at] + b"\x02" + bad[at + 1 :]
    for cdr in (good, good, good):
        from_variants(deserialize(cdr, VARIANTS_LIST))
    with pytest.raises(MalformedMessage, match="neither 0 nor 1"):
        from_variants(deserialize(bad, VARIANTS_LIST))
    long = pack({"s": ["x" * 100]})
    for _ in range(3):
        from_variants(deserialize(long, VARIANTS_LIST))
    with pytest.raises(MalformedMessage, match="at most 10"):
        from_variants(deserialize(long, VARIANTS_LIST), Bounds(string_length=10))


def test_frames_are_bounded_whatever_is_sent():
    for size in range(1000):
        for _ in range(3):
            unpack(memoryview(pack({"k": ["x" * size], f"other{size}": []})))
    for name in range(20):  # of one length
        for _ in range(3):
            unpack(memoryview(pack({f"key{name:04}": ["x"]})))
    assert len(_frames) <= 64
    assert max(map(len, _frames.values())) <= 4
    wide = pack({f"k{n}" * 30: [] for n in range(4000)})
    for _ in range(3):
        assert unpack_framed(memoryview(wide))[1] is None
