"""Tensors and strings as variants: what travels unchanged, and every bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from wire_rig import over_the_wire

from inference_service.core.errors import MalformedMessage
from inference_service.wire.interfaces import new_message
from inference_service.wire.variants import Bounds, from_variants, to_variants

SMALL = Bounds(
    variants=3, key_length=8, rank=3, tensor_bytes=64, total_bytes=100, strings=4, string_length=10
)  # fmt: skip


def floats(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def hostile(**changes: object):
    """A received list of one good (2, 3) float tensor ``x``, with something changed by hand."""
    message = over_the_wire(to_variants({"x": floats(2, 3)}))
    variant = message.variants[0]
    layout = variant.float_32_array.layout
    for name, value in changes.items():
        if name == "shape":
            layout.dim = [new_message("std_msgs/msg/MultiArrayDimension", size=size) for size in value]
        elif name == "data_offset":
            layout.data_offset = value
        else:
            setattr(variant, name, value)
    return message


@pytest.mark.parametrize(
    "value",
    [
        np.array([True, False]),
        np.array([[1, -2]], np.int32),
        np.array([2**40], np.int64),
        floats(1, 3, 2, 2),
        np.array([0.1, np.nan]),
        np.zeros(0),
        ["one", "", "drü"],
        [],
    ],
    ids=["bool", "int32", "int64", "float32", "float64", "empty", "strings", "no strings"],
)
def test_round_trip(value: object):
    back = from_variants(over_the_wire(to_variants({"k": value})))["k"]
    assert type(back) is type(value)
    np.testing.assert_array_equal(back, value)
    if isinstance(value, np.ndarray):
        assert (back.dtype, back.shape) == (value.dtype, value.shape)


def test_arrays_arrive_as_views():
    back = from_variants(over_the_wire(to_variants({"k": floats(2, 3)})))["k"]
    assert not back.flags.owndata and not back.flags.writeable


def test_a_strided_array_travels_by_value():
    strided = floats(4, 6)[::2, ::3]
    np.testing.assert_array_equal(from_variants(over_the_wire(to_variants({"k": strided})))["k"], strided)


def test_order_is_kept():
    assert list(from_variants(over_the_wire(to_variants({"z": ["1"], "a": floats(1)})))) == ["z", "a"]


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"k": np.zeros(2, np.uint8)}, "'k'.*uint8.*cast"),
        ({"k": np.zeros(2, np.float16)}, "'k'.*float16"),
        ({"k": np.zeros(2, ">f4")}, "'k'.*>f4"),
        ({"k": np.zeros((1, 2), bool)}, "'k'.*bool"),
        ({"k": np.float32(1)}, "'k'.*float32"),
        ({"k": np.array(1.0)}, "'k'.*axes"),
        ({"k": "text"}, "'k'.*str"),
        ({"k": [b"text"]}, "'k'.*bytes"),
        ({"": ["x"]}, "empty key"),
    ],
)
def test_what_cannot_travel_is_named(entries: dict, complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        to_variants(entries)


BEYOND = [
    ({"a": ["x"], "b": ["x"], "c": ["x"], "d": ["x"]}, "4 variants"),
    ({"k" * 9: ["x"]}, "key of 9"),
    ({"k": floats(1, 1, 1, 1)}, "'k'.*4 axes"),
    ({"k": floats(17)}, "'k'.*68 bytes"),
    ({"k": np.zeros(65, bool)}, "'k'.*65 bytes"),
    ({"a": floats(15), "big": floats(16)}, "124 bytes in all.*'big'"),
    ({"k": ["x"] * 5}, "'k'.*5 strings"),
    ({"k": ["x" * 11]}, "'k'.*string of 11"),
]


@pytest.mark.parametrize(("entries", "complaint"), BEYOND)
def test_bounds_hold_for_the_receiver(entries: dict, complaint: str):
    message = over_the_wire(to_variants(entries))
    with pytest.raises(MalformedMessage, match=complaint):
        from_variants(message, SMALL)


@pytest.mark.parametrize(("entries", "complaint"), BEYOND)
def test_bounds_hold_for_the_sender(entries: dict, complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        to_variants(entries, SMALL)


def test_bounds_themselves_are_allowed():
    entries = {"k" * 8: floats(1, 1, 16), "b": ["x" * 10] * 3}
    assert len(from_variants(over_the_wire(to_variants(entries, SMALL)), SMALL)) == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shape": [2, 4]}, r"'x'.*\[2, 4\].*6 values"),
        ({"shape": [6, 0]}, "'x'.*does not fit"),
        ({"shape": [2**16, 2**16, 2**16, 2**16]}, "'x'.*does not fit"),
        ({"shape": [1] * 1000 + [6]}, "'x'.*axes"),
        ({"data_offset": 1}, "'x'.*data_offset"),
        ({"type": "float_16_array"}, "'x'.*unknown type"),
        ({"type": "layout"}, "'x'.*unknown type"),
        ({"type": ""}, "'x'.*unknown type"),
        ({"type": "int_32_array", "shape": [6]}, None),
        ({"key": ""}, "empty key"),
    ],
)
def test_contradictions_are_refused(changes: dict, complaint: str | None):
    message = hostile(**changes)
    if complaint is None:
        assert from_variants(message)["x"].size == 0  # the field that `type` names is what counts
        return
    with pytest.raises(MalformedMessage, match=complaint):
        from_variants(message)


def test_an_empty_tensor_with_endless_axes_is_refused():
    message = over_the_wire(to_variants({"x": np.zeros(0, np.float32)}))
    sizes = [0, 2**32 - 1, 2**32 - 1, 2**32 - 1]
    message.variants[0].float_32_array.layout.dim = [
        new_message("std_msgs/msg/MultiArrayDimension", size=size) for size in sizes
    ]
    with pytest.raises(MalformedMessage, match="'x'"):
        from_variants(message)


def test_a_key_twice_is_refused():
    message = over_the_wire(to_variants({"x": floats(1), "y": floats(1)}))
    message.variants[1].key = "x"
    with pytest.raises(MalformedMessage, match="'x' is there twice"):
        from_variants(message)


def test_a_bool_that_is_neither_is_refused():
    """numpy calls the byte 2 true and sums it as 2."""
    message = over_the_wire(to_variants({"x": np.array([True, False])}))
    message.variants[0].bool_array = np.frombuffer(b"\x02\x00", np.bool_)
    with pytest.raises(MalformedMessage, match="neither 0 nor 1"):
        from_variants(message)


def test_no_bound_is_left_out():
    """Each bound, set to zero, refuses a message with one tensor and one string."""
    message = over_the_wire(to_variants({"x": floats(2), "s": ["text"]}))
    from_variants(message)
    for name in Bounds.__dataclass_fields__:
        with pytest.raises(MalformedMessage):
            from_variants(message, replace(Bounds(), **{name: 0}))
