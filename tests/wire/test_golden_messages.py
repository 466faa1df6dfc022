"""Our bytes are ROS 2's bytes: files that rclpy of a source-built jazzy wrote, and the hashes that it computed."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from wire_rig import GOLDEN, GOLDEN_TYPES, golden

from inference_service.wire import definitions
from inference_service.wire.envelope import Reply, Request, decode_reply, decode_request, encode_reply, encode_request
from inference_service.wire.interfaces import (
    PARTICIPANT_INFO_HUMBLE,
    _store,
    deserialize,
    get_message,
    new_message,
    serialize,
    type_hash,
)
from inference_service.wire.variants import VARIANTS_LIST, from_variants, to_variants

HASHED = json.loads((GOLDEN / "type_hashes.json").read_text())["hashes"]
# Actions are hashed as a whole too, and their services; nothing on the wire says those hashes but the golden file's.
MESSAGE = re.compile(r"\w+/((msg|srv)/\w+|action/\w+_(Goal|Result|Feedback\w*|Request|Response))")
NOT_GOLDEN = {"SetParametersAtomically"}
OUR_TYPES = [name for name in HASHED if MESSAGE.fullmatch(name)]


def test_all_twenty_golden_messages_are_here():
    assert len(GOLDEN_TYPES) == 20


@pytest.mark.parametrize("name", GOLDEN_TYPES)
def test_golden_bytes_survive_decoding_and_encoding(name: str):
    message = deserialize(golden(name), GOLDEN_TYPES[name])
    assert type(message) is get_message(GOLDEN_TYPES[name])
    assert bytes(serialize(message, GOLDEN_TYPES[name])) == golden(name)


@pytest.mark.parametrize("type_name", OUR_TYPES)
def test_definitions_hash_to_what_ros_computed(type_name: str):
    """RIHS01 covers names, types and order of all fields, nested ones too."""
    get_message(type_name)
    assert _store.hash_rihs01(type_name) == type_hash(type_name)


def test_every_definition_file_of_ours_has_a_golden_hash():
    stems = {path.stem for path in definitions.FOLDER.rglob("*.*") if path.suffix in (".msg", ".srv", ".action")}
    covered = {name.split("/")[2].split("_")[0] for name in OUR_TYPES}
    assert stems - covered == NOT_GOLDEN


def test_a_hash_that_the_golden_file_lacks_is_computed():
    """Without one every ROS process of jazzy prints a warning for the endpoint."""
    assert "rcl_interfaces/srv/SetParametersAtomically" not in HASHED
    computed = "RIHS01_0e192ef259c07fc3c07a13191d27002222e65e00ccec653ca05e856f79285fcd"
    assert type_hash("rcl_interfaces/srv/SetParametersAtomically") == computed


def test_package_ships_the_golden_hashes():
    assert (definitions.FOLDER / "type_hashes.json").read_bytes() == (GOLDEN / "type_hashes.json").read_bytes()
    assert str(type_hash("std_srvs/srv/Empty")).startswith("RIHS01_")
    assert type_hash("nowhere/msg/Nothing") is None


def test_golden_values_are_read():
    log = deserialize(golden("rosout_log"), "rcl_interfaces/msg/Log")
    assert (log.level, log.name, log.msg, log.line) == (20, "pure_inference", "ready", 7)
    image = deserialize(golden("image_2x3_rgb8"), "sensor_msgs/msg/Image")
    assert (image.height, image.width, image.encoding, image.header.stamp.nanosec) == (2, 3, "rgb8", 123456789)
    assert image.data.tolist() == list(range(18))
    result = deserialize(golden("dispatch_get_result_response"), "ibrobot_msgs/action/DispatchInfer_GetResult_Response")
    assert (result.status, result.result.success, result.result.inference_latency_ms) == (4, True, 12.5)
    graph = deserialize(golden("participant_entities_info"), "rmw_dds_common/msg/ParticipantEntitiesInfo")
    node = graph.node_entities_info_seq[0]
    assert (node.node_namespace, node.node_name) == ("/", "pure_inference")
    assert [gid.data.tolist() for gid in node.writer_gid_seq] == [[2] * 16, [3] * 16]


def test_humble_graph_has_gids_of_24_bytes():
    gid = get_message("rmw_dds_common_humble/msg/Gid")(data=np.arange(24, dtype=np.uint8))
    info = new_message(PARTICIPANT_INFO_HUMBLE, gid=gid)
    cdr = bytes(serialize(info, PARTICIPANT_INFO_HUMBLE))
    assert cdr == b"\0\1\0\0" + bytes(range(24)) + bytes(4)
    assert deserialize(cdr, PARTICIPANT_INFO_HUMBLE).gid.data.tolist() == list(range(24))


def test_golden_variants_of_every_kind():
    entries = from_variants(deserialize(golden("variants_all_fields"), VARIANTS_LIST))
    assert [(key, entry.dtype, entry.tolist()) for key, entry in entries.items()] == [
        ("a", np.bool_, [True, False, True]),
        ("b", np.int32, [-1, 2]),
        ("c", np.int64, [2**40]),
        ("d", np.float64, [0.1, -0.2]),
    ]
    assert bytes(serialize(to_variants(entries), VARIANTS_LIST)) == golden("variants_all_fields")


def test_golden_plain_request_both_ways():
    request = decode_request(deserialize(golden("variants_request_plain"), VARIANTS_LIST))
    assert (request.request_id, request.extended, request.prompt) == ("0a1b2c3d", False, None)
    np.testing.assert_array_equal(request.batch["observation.state"], [[0, 0.5, 1, 1.5, 2, 2.5]])
    top = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) / 8
    np.testing.assert_array_equal(request.batch["observation.images.top"], top)
    state = 0.5 * np.arange(6, dtype=np.float32)[None]
    ours = Request("0a1b2c3d", {"observation.state": state, "observation.images.top": top})
    assert bytes(serialize(encode_request(ours, extended=False), VARIANTS_LIST)) == golden("variants_request_plain")


def test_golden_plain_reply_both_ways():
    reply = decode_reply(deserialize(golden("variants_reply_plain"), VARIANTS_LIST))
    action = 0.25 * np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(reply.action, action)
    assert (reply.request_id, reply.status, reply.extended) == ("0a1b2c3d", "ok", False)
    ours = encode_reply(Reply("0a1b2c3d", action), extended=False)
    assert bytes(serialize(ours, VARIANTS_LIST)) == golden("variants_reply_plain")
