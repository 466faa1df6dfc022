"""Message classes, their names on DDS, and what bytes and fields are refused."""

from __future__ import annotations

import struct
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from wire_rig import golden

from inference_service.core.errors import MalformedMessage, ProtocolError
from inference_service.wire.interfaces import (
    PARTICIPANT_INFO,
    PARTICIPANT_INFO_HUMBLE,
    action_types,
    dds_type_name,
    deserialize,
    get_message,
    new_message,
    serialize,
    service_types,
)
from inference_service.wire.typestore import MAX_OBJECTS, BoundedTypestore

JOINT_STATE = "sensor_msgs/msg/JointState"
IMAGE = "sensor_msgs/msg/Image"
VARIANTS_LIST = "ibrobot_msgs/msg/VariantsList"


@pytest.mark.parametrize(
    ("type_name", "on_dds"),
    [
        ("std_msgs/msg/String", "std_msgs::msg::dds_::String_"),
        ("std_srvs/srv/Empty_Request", "std_srvs::srv::dds_::Empty_Request_"),
        (
            "ibrobot_msgs/action/DispatchInfer_SendGoal_Request",
            "ibrobot_msgs::action::dds_::DispatchInfer_SendGoal_Request_",
        ),
        (PARTICIPANT_INFO, "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_"),
        (PARTICIPANT_INFO_HUMBLE, "rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_"),
    ],
)
def test_dds_type_names(type_name: str, on_dds: str):
    assert dds_type_name(type_name) == on_dds


def test_every_message_of_an_action_and_a_service_exists():
    action = action_types("ibrobot_msgs/action/DispatchInfer")
    services = [action.send_goal, action.get_result, action.cancel_goal, service_types("std_srvs/srv/Trigger")]
    names = [action.goal, action.result, action.feedback, action.feedback_message, action.status]
    for name in names + [part for service in services for part in (service.request, service.response)]:
        message = new_message(name)
        assert bytes(serialize(deserialize(serialize(message, name), name), name)) == bytes(serialize(message, name))


def test_an_empty_request_has_one_byte():
    assert bytes(serialize(new_message("std_srvs/srv/Empty_Request"), "std_srvs/srv/Empty_Request")) == b"\0\1\0\0\0"


def test_a_type_without_a_file_comes_from_rosbags():
    pose = new_message("geometry_msgs/msg/PoseStamped")
    assert pose.header.frame_id == "" and pose.pose.orientation.w == 0.0


@pytest.mark.parametrize(
    "name", ["std_msgs/String", "x/msg/Nothing", "std_srvs/srv/Nothing", "a/action/B_SendGoal_Request"]
)
def test_an_unknown_type_is_named(name: str):
    with pytest.raises(ProtocolError, match=name):
        get_message(name)


def test_constants_are_attributes():
    assert get_message("diagnostic_msgs/msg/DiagnosticStatus").STALE == 3
    assert get_message("action_msgs/msg/GoalStatus").STATUS_ABORTED == 6


def test_new_message_refuses_an_unknown_field():
    with pytest.raises(TypeError, match="positoin"):
        new_message(JOINT_STATE, positoin=np.zeros(1))


@pytest.mark.parametrize(
    "position",
    [np.array([1, 2]), np.zeros(2, np.float32), np.zeros((1, 2)), [0.1, 0.2], None],
    ids=["int64", "float32", "two axes", "list", "none"],
)
def test_an_array_of_another_kind_never_leaves(position: object):
    """int64 has float64's size: rosbags alone would send the robot its bits as they are."""
    message = new_message(JOINT_STATE, position=position)
    with pytest.raises(MalformedMessage, match=r"JointState\.position"):
        serialize(message, JOINT_STATE)


def test_a_nested_array_of_another_kind_is_named_with_its_path():
    variants = deserialize(golden("variants_reply_plain"), VARIANTS_LIST)
    variants.variants[0].float_32_array.data = np.zeros(24, np.int32)
    with pytest.raises(MalformedMessage, match=r"variants\[0\].float_32_array.data: int32"):
        serialize(variants, VARIANTS_LIST)


@pytest.mark.parametrize("frame_id", [7, None, "\ud800"])
def test_a_scalar_of_another_kind_never_leaves(frame_id: object):
    header = new_message("std_msgs/msg/Header", frame_id=frame_id)
    with pytest.raises(MalformedMessage, match="std_msgs/msg/Header"):
        serialize(header, "std_msgs/msg/Header")


def test_a_fixed_array_of_another_length_never_leaves():
    gid = get_message("rmw_dds_common/msg/Gid")(data=np.zeros(24, np.uint8))
    with pytest.raises(MalformedMessage, match="length"):
        serialize(gid, "rmw_dds_common/msg/Gid")


@pytest.mark.parametrize("header", [b"", b"\0", b"\0\1\0", b"\0\7\0\0", b"\0\3\0\0", b"\1\1\0\0"])
def test_another_encapsulation_is_refused(header: bytes):
    body = golden("string")[4:] if len(header) == 4 else b""
    with pytest.raises(MalformedMessage, match="std_msgs/msg/String"):
        deserialize(header + body, "std_msgs/msg/String")


@pytest.mark.parametrize("name", ["variants_request_plain", "joint_state"])
def test_every_truncation_is_refused(name: str):
    type_name = VARIANTS_LIST if name.startswith("variants") else JOINT_STATE
    for length in range(len(golden(name))):
        with pytest.raises(MalformedMessage):
            deserialize(golden(name)[:length], type_name)


def test_padding_to_four_is_accepted_and_more_is_not():
    assert deserialize(golden("string") + bytes(2), "std_msgs/msg/String").data == "hello"
    with pytest.raises(MalformedMessage, match="size"):
        deserialize(golden("string") + bytes(4), "std_msgs/msg/String")


@pytest.mark.parametrize("length", [7, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_string_longer_than_the_bytes_is_refused(length: int):
    with pytest.raises(MalformedMessage):
        deserialize(b"\0\1\0\0" + struct.pack("<I", length) + b"hello\0", "std_msgs/msg/String")


def test_a_string_that_is_no_utf8_is_refused():
    with pytest.raises(MalformedMessage, match="utf-8"):
        deserialize(b"\0\1\0\0" + struct.pack("<I", 3) + b"\xff\xfe\0", "std_msgs/msg/String")


@pytest.mark.parametrize("length", [19, 1 << 20, 0xFFFFFFFF])
def test_an_array_longer_than_the_bytes_is_refused_without_allocating(length: int):
    cdr = bytearray(golden("image_2x3_rgb8"))
    cdr[52:56] = struct.pack("<I", length)
    deserialize(golden("image_2x3_rgb8"), IMAGE)  # reading the first one allocates the type and its reader
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            deserialize(cdr, IMAGE)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


STATUS_HEAD = b"\0\1\0\0" + bytes(4) + struct.pack("<IB3x", 1, 0) * 3
JOINT_STATE_HEAD = b"\0\1\0\0" + bytes(8) + struct.pack("<IB3x", 1, 0)


@pytest.mark.parametrize(
    ("head", "element", "type_name"),
    [
        (STATUS_HEAD, struct.pack("<IB3xIB3x", 1, 0, 1, 0), "diagnostic_msgs/msg/DiagnosticStatus"),
        (JOINT_STATE_HEAD, struct.pack("<I4s", 4, b"abc"), JOINT_STATE),
    ],
    ids=["messages", "strings"],
)
def test_few_bytes_cannot_become_many_objects(head: bytes, element: bytes, type_name: str):
    """8 or 16 bytes each, up to 300 as objects: uncounted, 64 MiB of these would take over a gigabyte."""
    count = 4 * MAX_OBJECTS
    cdr = head + struct.pack("<I", count) + element * count
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="nested messages and strings"):
            deserialize(cdr, type_name)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_arrays_are_read_only_views_even_of_a_bytearray():
    cdr = bytearray(golden("image_2x3_rgb8"))
    data = deserialize(cdr, IMAGE).data
    assert not data.flags.owndata and not data.flags.writeable
    cdr[-1] = 99
    assert data[-1] == 99


def test_big_endian_is_read():
    cdr = b"\0\0\0\0" + struct.pack(">iI", -5, 7)
    time = deserialize(cdr, "builtin_interfaces/msg/Time")
    assert (time.sec, time.nanosec) == (-5, 7)


def test_many_threads_may_load_the_same_types():
    store = BoundedTypestore()
    barrier = threading.Barrier(8)

    def work(_: int) -> list[bytes]:
        barrier.wait(10)
        return [bytes(serialized(name)) for name in (VARIANTS_LIST, JOINT_STATE, IMAGE)]

    def serialized(name: str) -> memoryview:
        store.load(name)
        return store.serialize_cdr(store.types[name](**store.default(name)), name)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8), timeout=30))
    assert results == [results[0]] * 8
