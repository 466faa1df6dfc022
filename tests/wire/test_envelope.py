"""Requests and replies in both forms: what arrives is what was sent, and nothing garbled is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wire_rig import over_the_wire, picture, sample_request

from inference_service.core.batch import AffineImage, materialise
from inference_service.core.errors import MalformedMessage, NonFiniteAction, ProtocolError, Superseded, error_from_wire
from inference_service.core.policy import LeftOver
from inference_service.wire.envelope import (
    TIMING_STAGES,
    Reply,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    request_address,
)
from inference_service.wire.variants import Bounds, from_variants, to_variants

U8 = {"observation.images.top": "u8", "observation.images.wrist": "u8"}
ACTION = np.arange(12, dtype=np.float32).reshape(2, 6)
RTC = {
    "task__rtc__left_over": ACTION,
    "task__rtc__delay": np.array([3], np.int64),
    "task__rtc__horizon": np.array([10], np.int64),
}


def sent(**changes: Any) -> Any:
    """Entries of an extended request as they arrive, some changed (None: taken away), as a message again."""
    entries = from_variants(over_the_wire(encode_request(sample_request(), extended=True, codecs=U8)))
    return changed(entries, changes)


def answered(**changes: Any) -> Any:
    reply = Reply("0a1b2c3d", ACTION, timing_ms={"inference": 12.5}).addressed("arm@1", "5e5510", "engine@2")
    return changed(from_variants(over_the_wire(encode_reply(reply, extended=True))), changes)


def changed(entries: dict[str, Any], changes: dict[str, Any]) -> Any:
    entries = {**entries, **{key.replace("__", "."): value for key, value in changes.items()}}
    return over_the_wire(to_variants({key: value for key, value in entries.items() if value is not None}))


def test_an_extended_request_arrives_whole():
    request = sample_request()
    back = decode_request(over_the_wire(encode_request(request, extended=True, codecs=U8)))
    for name in ("request_id", "device_id", "session", "sequence", "deadline_ms", "obs_stamp_ns", "fingerprint"):
        assert getattr(back, name) == getattr(request, name), name
    assert back.extended and back.prompt == "pick the cube" and back.batch.pop("task") == ["pick the cube"]
    assert list(back.batch) == list(request.batch)
    for key, value in request.batch.items():
        if isinstance(value, AffineImage):
            assert back.batch[key].materialise().tobytes() == value.materialise().tobytes()
        else:
            np.testing.assert_array_equal(back.batch[key], value, strict=True)


def test_without_a_codec_an_image_travels_as_float32():
    request = sample_request()
    back = decode_request(over_the_wire(encode_request(request, extended=True)))
    image = request.batch["observation.images.top"]
    np.testing.assert_array_equal(back.batch["observation.images.top"], image.materialise(), strict=True)


def test_each_camera_has_its_own_codec():
    codecs = {"observation.images.top": "jpeg:95", "observation.images.wrist": "f16"}
    back = decode_request(over_the_wire(encode_request(sample_request(), extended=True, codecs=codecs)))
    assert isinstance(back.batch["observation.images.top"], AffineImage)
    assert back.batch["observation.images.wrist"].shape == (1, 3, 5, 9)


def test_a_request_without_deadline_prompt_and_stamp():
    request = sample_request(deadline_ms=None, prompt=None, fingerprint="", obs_stamp_ns=0)
    back = decode_request(over_the_wire(encode_request(request, extended=True)))
    assert (back.deadline_ms, back.prompt, back.fingerprint) == (None, None, "")
    assert "task" not in back.batch


def test_the_plain_form_holds_nothing_but_tensors_task_and_request_id():
    """An unmodified IB-Robot engine fails on any other list of strings."""
    entries = from_variants(over_the_wire(encode_request(sample_request(), extended=False, codecs=U8)))
    images = ["observation.images.top", "observation.images.wrist"]
    assert list(entries) == ["observation.state", *images, "task", "task.request_id"]
    assert all(entries[key].dtype == np.float32 for key in images)
    wrist = sample_request().batch["observation.images.wrist"]
    assert entries["observation.images.wrist"].tobytes() == wrist.materialise().tobytes()


def test_a_plain_request_arrives_and_asks_for_a_plain_reply():
    back = decode_request(over_the_wire(encode_request(sample_request(), extended=False)))
    assert not back.extended
    assert (back.request_id, back.device_id, back.deadline_ms, back.prompt) == ("0a1b2c3d", "", None, "pick the cube")


def test_the_context_of_a_request_arrives_whole():
    request = sample_request(seed=2**63 - 1, left_over=LeftOver(ACTION, 3, 10))
    context = decode_request(over_the_wire(encode_request(request, extended=True))).context
    assert (context.session, context.seed) == ("5e5510", 2**63 - 1)
    assert context.left_over is not None
    np.testing.assert_array_equal(context.left_over.actions, ACTION, strict=True)
    assert (context.left_over.inference_delay, context.left_over.execution_horizon) == (3, 10)


EARLIER_STATE = "task.earlier.{}.observation.state"
STATE = np.ones((1, 6), np.float32)


@pytest.mark.parametrize("codec", ["u8", "f16", "f32", "jpeg:95"])
def test_earlier_observations_arrive_as_the_latest_one_does(codec: str):
    batch = {key: value for key, value in sample_request().batch.items() if key != "task"}
    frames = tuple({**batch, "observation.state": np.full((1, 6), n, np.float32)} for n in (1, 2))
    codecs = dict.fromkeys(U8, codec)
    request = sample_request(earlier=frames)
    message = over_the_wire(encode_request(request, extended=True, codecs=codecs))
    assert {EARLIER_STATE.format(1), EARLIER_STATE.format(2), "task.earlier"} < set(from_variants(message))
    back = decode_request(message)
    assert list(back.batch) == list(request.batch | {"task": []})
    earlier = back.context.earlier
    assert earlier is not None and [float(frame["observation.state"][0, 0]) for frame in earlier] == [1, 2]
    for frame in earlier:
        assert list(frame) == list(batch)
        for key in U8:
            assert materialise(frame[key]).tobytes() == materialise(back.batch[key]).tobytes()


def test_a_session_that_has_just_begun_says_so():
    back = decode_request(over_the_wire(encode_request(sample_request(earlier=()), extended=True)))
    assert back.context.earlier == () and decode_request(sent()).context.earlier is None
    plain = encode_request(
        sample_request(earlier=({"observation.state": np.ones((1, 6), np.float32)},)), extended=False
    )
    assert not [key for key in from_variants(plain) if key.startswith("task.earlier")]


@pytest.mark.parametrize(
    "changes",
    [
        {"task__earlier": np.array([1], np.int64)},
        {EARLIER_STATE.format(1): STATE},
        {"task__earlier": np.array([1], np.int64), EARLIER_STATE.format(2): STATE},
        {"task__earlier": np.array([0], np.int64), EARLIER_STATE.format(1): STATE},
        {"task__earlier": np.array([64], np.int64)},
        {"task__earlier": np.array([-1], np.int64)},
        {"task__earlier": np.array([1], np.int32), EARLIER_STATE.format(1): STATE},
        {"task__earlier": ["1"], EARLIER_STATE.format(1): STATE},
    ],
    ids=["none there", "not announced", "a gap", "one too many", "too many", "negative", "another type", "a text"],
)
def test_earlier_observations_that_are_not_as_announced_are_malformed(changes: dict[str, Any]):
    with pytest.raises(MalformedMessage, match=r"task\.earlier"):
        decode_request(sent(**changes))


def test_a_request_need_not_have_a_context():
    bare = decode_request(sent()).context
    assert (bare.session, bare.seed, bare.left_over) == ("5e5510", None, None)
    request = sample_request(seed=1, left_over=LeftOver(ACTION, 3, 10))
    plain = decode_request(over_the_wire(encode_request(request, extended=False)))
    assert (plain.context.session, plain.context.seed, plain.context.left_over) == ("", None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"left_over": LeftOver(ACTION[0], 0, 0)},
        {"left_over": LeftOver(ACTION * np.float32(np.nan), 0, 0)},
        {"left_over": LeftOver(ACTION, -1, 0)},
        {"left_over": LeftOver(ACTION, 0, -1)},
    ],
)
def test_a_context_that_makes_no_sense_is_not_sent(changes: dict):
    with pytest.raises(MalformedMessage, match=r"task\.(seed|rtc)"):
        encode_request(sample_request(**changes), extended=True)


def test_a_task_in_the_batch_is_what_travels():
    batch = {"observation.state": np.zeros((1, 6), np.float32), "task": ["pick\n"]}
    back = decode_request(over_the_wire(encode_request(sample_request(batch=batch), extended=True)))
    assert (back.batch["task"], back.prompt) == (["pick\n"], "pick\n")


@pytest.mark.parametrize("extended", [True, False])
def test_a_mask_keeps_its_batch_axis(extended: bool):
    """The plain form's arrays of bool have one axis: that of the batch is left out, and put back."""
    mask = "observation.language.attention_mask"
    message = over_the_wire(encode_request(sample_request(batch={mask: np.array([[True, False]])}), extended=extended))
    np.testing.assert_array_equal(decode_request(message).batch[mask], [[True, False]], strict=True)
    two_rows = sample_request(batch={mask: np.ones((2, 2), np.bool_)})
    if not extended:
        with pytest.raises(MalformedMessage, match="attention_mask"):
            encode_request(two_rows, extended=False)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"device_id": ""}, "device_id"),
        ({"session": ""}, "session"),
        ({"batch": {"task.sneaky": np.zeros(1)}}, "task.sneaky"),
        ({"batch": {"task": "text"}}, "'task'"),
        ({"batch": {"x": object()}}, "'x'"),
    ],
)
def test_a_request_that_cannot_be_sent_is_named(changes: dict, complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        encode_request(sample_request(**changes), extended=True)


def test_a_plain_engine_is_spared_strange_strings():
    with pytest.raises(MalformedMessage, match="robot_type"):
        encode_request(sample_request(batch={"robot_type": ["so101"]}), extended=False)


def test_unknown_task_keys_are_passed_over():
    assert "task.colour" not in decode_request(sent(task__colour=["blue"])).batch


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task__request_id": None}, "'task.request_id' is missing"),
        ({"task__request_id": []}, "'task.request_id'"),
        ({"task__request_id": [""]}, "'task.request_id'"),
        ({"task__request_id": ["a", "b"]}, "'task.request_id'"),
        ({"task__request_id": ["x" * 129]}, "'task.request_id'"),
        ({"task__request_id": np.zeros(1)}, "'task.request_id'"),
        ({"task__device_id": None}, "'task.device_id' is missing"),
        ({"task__session": None}, "'task.session' is missing"),
        ({"task__session": [""]}, "'task.session'"),
        ({"task__sequence": None}, "'task.sequence' is missing"),
        ({"task__sequence": np.zeros(1)}, "'task.sequence'"),
        ({"task__sequence": np.zeros(2, np.int64)}, "'task.sequence'"),
        ({"task__obs_stamp_ns": ["now"]}, "'task.obs_stamp_ns'"),
        ({"task__fingerprint": None}, "'task.fingerprint' is missing"),
        ({"task__deadline_ms": np.array([np.nan])}, "'task.deadline_ms' is not finite"),
        ({"task__deadline_ms": np.array([np.inf])}, "'task.deadline_ms' is not finite"),
        ({"task__deadline_ms": np.zeros(1, np.float32)}, "'task.deadline_ms'"),
        ({"task__deadline_ms": ["soon"]}, "'task.deadline_ms'"),
        ({"task__seed": np.zeros(1)}, "'task.seed'"),
        ({"task__seed": np.array([-1], np.int64)}, "'task.seed' is -1"),
        ({"task__rtc__delay": np.array([3], np.int64)}, "'task.rtc.left_over' is missing"),
        ({**RTC, "task__rtc__horizon": None}, "'task.rtc.horizon' is missing"),
        ({**RTC, "task__rtc__delay": np.array([-1], np.int64)}, "'task.rtc.delay' is -1"),
        ({**RTC, "task__rtc__horizon": np.array([100_001], np.int64)}, "'task.rtc.horizon' is 100001"),
        ({**RTC, "task__rtc__left_over": ACTION.astype(np.float64)}, "'task.rtc.left_over' is float64"),
        ({**RTC, "task__rtc__left_over": ACTION[0]}, "'task.rtc.left_over' is float32"),
        ({**RTC, "task__rtc__left_over": ["left"]}, "'task.rtc.left_over' is a list"),
        ({**RTC, "task__rtc__left_over": np.full((2, 6), np.inf, np.float32)}, "'task.rtc.left_over' holds"),
        ({"task__encoding": np.zeros(1)}, "'task.encoding'"),
        ({"task__encoding": ["{}"]}, "task.encoding"),
        ({"task": np.zeros(1)}, "'task'"),
        ({"observation__images__top": None}, "'observation.images.top' is not in the message"),
        ({"observation__images__top": np.zeros(3, np.int32)}, "'observation.images.top'"),
    ],
)
def test_a_garbled_request_is_refused(changes: dict, complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        decode_request(sent(**changes))


def test_bounds_reach_the_request():
    with pytest.raises(MalformedMessage, match="variants"):
        decode_request(sent(), Bounds(variants=5))


def test_a_refused_request_still_has_an_address():
    address = request_address(sent(task__sequence=None))
    assert (address.request_id, address.device_id, address.session) == ("0a1b2c3d", "arm@1", "5e5510")
    reply = replace(address, status="malformed", message="why", engine_id="engine@2")
    back = decode_reply(over_the_wire(encode_reply(reply, extended=True)))
    assert isinstance(error_from_wire(back.status, back.message), MalformedMessage)


@pytest.mark.parametrize("key", ["task__request_id", "task__device_id", "task__session"])
@pytest.mark.parametrize("value", [None, [], ["x" * 129], np.zeros(1)], ids=["missing", "none", "long", "number"])
def test_without_an_address_there_is_no_answer(key: str, value: object):
    assert request_address(sent(**{key: value})) is None


def test_an_extended_reply_arrives_whole():
    reply = Reply("id", ACTION, timing_ms={"queue": 0.5, "decode": 1.0, "inference": 20.0, "encode": 0.25})
    reply = reply.addressed("arm@1", "5e5510", "engine@2")
    back = decode_reply(over_the_wire(encode_reply(reply, extended=True)))
    np.testing.assert_array_equal(back.action, ACTION, strict=True)
    for name in ("request_id", "status", "message", "timing_ms", "device_id", "session", "engine_id"):
        assert getattr(back, name) == getattr(reply, name), name
    assert tuple(back.timing_ms) == TIMING_STAGES and back.extended


def test_an_error_reply_turns_back_into_its_class():
    reply = Reply("id", status="superseded", message="a newer request took its place").addressed("d", "s", "e")
    back = decode_reply(over_the_wire(encode_reply(reply, extended=True)))
    error = error_from_wire(back.status, back.message)
    assert isinstance(error, Superseded) and str(error) == reply.message and back.action is None


def test_a_long_error_message_is_cut_not_refused():
    reply = Reply("id", status="internal", message="x" * 100_000).addressed("d", "s", "e")
    assert len(decode_reply(over_the_wire(encode_reply(reply, extended=True))).message) == 16384


def test_a_plain_reply_holds_exactly_two_variants():
    reply = Reply("id", ACTION, timing_ms={"inference": 1.0}).addressed("d", "s", "e")
    assert list(from_variants(encode_reply(reply, extended=False))) == ["action", "action.request_id"]


def test_the_plain_form_has_no_word_for_an_error():
    with pytest.raises(ProtocolError, match="superseded"):
        encode_reply(Reply("id", status="superseded"), extended=False)


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        Reply("id"),
        Reply("id", ACTION, status="internal"),
        Reply("id", ACTION.astype(np.float64)),
        Reply("id", ACTION[0]),
        Reply("id", ACTION[None]),
        Reply("id", ACTION[:0]),
    ],
    ids=["nothing", "error with action", "float64", "one axis", "three axes", "empty"],
)
def test_a_reply_that_contradicts_itself_is_not_sent(reply: Reply, extended: bool):
    with pytest.raises(MalformedMessage):
        encode_reply(reply, extended=extended)


def test_an_unknown_timing_stage_is_not_sent():
    with pytest.raises(MalformedMessage, match="lunch"):
        encode_reply(Reply("id", ACTION, timing_ms={"lunch": 1.0}), extended=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"action": None}, "status 'ok' without action"),
        ({"action__status": ["expired"]}, "status 'expired' with action"),
        ({"action__status": None}, "'action.status' is missing"),
        ({"action__status": ["<b>"]}, "'action.status'"),
        ({"action__request_id": None}, "'action.request_id' is missing"),
        ({"action__session": None}, "'action.session' is missing"),
        ({"action__device_id": None}, "'action.device_id' is missing"),
        ({"action__engine_id": [""]}, "'action.engine_id'"),
        ({"action__message": np.zeros(1)}, "'action.message'"),
        ({"action__timing_ms": np.zeros(3)}, "'action.timing_ms'"),
        ({"action__timing_ms": np.full(4, np.inf)}, "'action.timing_ms'"),
        ({"action": ["left"]}, "'action' is a list of strings"),
        ({"action": ACTION.astype(np.float64)}, "'action' is float64"),
        ({"action": ACTION[None]}, "'action' is float32"),
        ({"action": ACTION[:, :0].reshape(-1)}, "'action' is float32"),
    ],
)
def test_a_garbled_reply_is_refused(changes: dict, complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        decode_reply(answered(**changes))


def test_a_plain_reply_with_more_in_it_is_refused():
    message = over_the_wire(to_variants({"action": ACTION, "action.request_id": ["id"], "action.extra": ["x"]}))
    with pytest.raises(MalformedMessage, match=r"action\.extra"):
        decode_reply(message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("extended", [True, False])
def test_an_action_that_is_not_finite_arrives_as_an_error(value: float, extended: bool):
    action = ACTION.copy()
    action[1, 3] = value
    reply = Reply("id", action).addressed("d", "s", "e")
    back = decode_reply(over_the_wire(encode_reply(reply, extended=extended)))
    assert back.action is None and back.request_id == "id"
    assert isinstance(error_from_wire(back.status, back.message), NonFiniteAction)


def test_images_of_the_request_are_views_into_the_message():
    message = over_the_wire(encode_request(sample_request(), extended=True, codecs=U8))
    image = decode_request(message).batch["observation.images.top"]
    data = next(v for v in message.variants if v.key == "observation.images.top").int_32_array.data
    assert np.shares_memory(image.pixels, data)
    np.testing.assert_array_equal(image.pixels, picture())
