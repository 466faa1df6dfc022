"""The engine's card: all of WIRE.md's values, and none believed that is missing or garbled."""

from __future__ import annotations

from typing import Any

import pytest
from wire_rig import golden

from inference_service.core.errors import MalformedMessage
from inference_service.wire.envelope import EngineCard, EngineState, card_from_status, card_to_status
from inference_service.wire.interfaces import deserialize, get_message, serialize

STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
CARD = EngineCard(
    engine_id="pure_inference@1",
    state=EngineState.READY,
    policy_type="act",
    backend_type="onnx",
    device="cpu",
    chunk_size=50,
    action_dim=6,
    input_features={"observation.state": (6,), "observation.images.top": (3, 96, 128)},
    fingerprint="f00d",
    codecs=("f32", "u8"),
    queue_depth=2,
    version="0.1.0",
    output_features={"action": (6,)},
    feature_types={"observation.state": "STATE", "observation.images.top": "VISUAL", "action": "ACTION"},
    n_obs_steps=2,
    earlier_observations=1,
    supports_rtc=True,
    max_batch=8,
    image_size=(224, 320),
    fps=29.97,
    versions={"onnxruntime": "1.26.0"},
    shared_memory="inference-service-0:1",
)
VALUES = [
    *("wire", "engine_id", "state", "policy_type", "backend_type", "device", "chunk_size", "action_dim"),
    *("input_features", "fingerprint", "codecs", "queue_depth", "version"),
]
LATER_VALUES = [
    *("output_features", "feature_types", "n_obs_steps", "earlier_observations", "supports_rtc", "max_batch"),
    *("image_size", "fps", "versions", "shared_memory"),
]


def over_the_wire(status: Any) -> Any:
    return deserialize(bytes(serialize(status, STATUS)), STATUS)


def with_value(key: str, value: str | None) -> Any:
    status = over_the_wire(card_to_status(CARD))
    status.values = [item for item in status.values if item.key != key]
    if value is not None:
        status.values.append(get_message("diagnostic_msgs/msg/KeyValue")(key=key, value=value))
    return status


@pytest.mark.parametrize("state", EngineState)
def test_a_card_arrives_whole(state: EngineState):
    card = EngineCard(**{**CARD.__dict__, "state": state, "message": "device lost" * (state is EngineState.FAULT)})
    status = over_the_wire(card_to_status(card))
    assert card_from_status(status) == card
    assert (status.name, status.hardware_id) == ("pure_inference", "cpu")
    assert status.level == {EngineState.READY: 0, EngineState.FAULT: 2}.get(state, 1)
    assert status.message == (card.message or state.name)


def test_a_card_holds_the_agreed_values_in_order():
    assert [item.key for item in card_to_status(CARD).values] == VALUES + LATER_VALUES


def test_an_engine_that_says_less_is_understood():
    """A card from before these values were agreed on: what it does not say has its default."""
    status = over_the_wire(card_to_status(CARD))
    status.values = [item for item in status.values if item.key in VALUES]
    card = card_from_status(status)
    first = {key: value for key, value in CARD.__dict__.items() if key not in LATER_VALUES}
    assert card == EngineCard(**first)
    assert (card.n_obs_steps, card.supports_rtc, card.max_batch, card.image_size, card.fps) == (1, False, 1, None, None)
    assert card.earlier_observations == 0


def test_features_keep_the_order_of_the_policy():
    """The order of cameras is the model's."""
    names = ["observation.images.wrist", "observation.images.top", "observation.images.a"]
    card = EngineCard(engine_id="e", state=EngineState.LOADING, input_features=dict.fromkeys(names, (3, 8, 8)))
    assert list(card_from_status(over_the_wire(card_to_status(card))).input_features) == names


def test_a_loading_engine_need_not_know_anything():
    card = EngineCard(engine_id="e", state=EngineState.LOADING)
    assert card_from_status(over_the_wire(card_to_status(card))) == card


@pytest.mark.parametrize("key", VALUES)
def test_a_missing_value_is_named(key: str):
    with pytest.raises(MalformedMessage, match=f"'{key}' is missing"):
        card_from_status(with_value(key, None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wire", ""),
        ("wire", "0"),
        ("wire", "-1"),
        ("wire", "one"),
        ("wire", "1.0"),
        ("wire", "٣"),
        ("engine_id", ""),
        ("state", "SLEEPING"),
        ("state", "ready"),
        ("chunk_size", "-50"),
        ("chunk_size", "1" * 5000),
        ("action_dim", "six"),
        ("queue_depth", "0x2"),
        ("input_features", ""),
        ("input_features", "[]"),
        ("input_features", '{"a": 3}'),
        ("input_features", '{"a": [3.5]}'),
        ("input_features", '{"a": [-3]}'),
        ("input_features", '{"a": [1,1,1,1,1,1,1,1,1]}'),
        ("input_features", "[" * 60000),
        ("output_features", '{"action": "six"}'),
        ("feature_types", '["STATE"]'),
        ("feature_types", '{"action": 3}'),
        ("n_obs_steps", "0"),
        ("n_obs_steps", ""),
        ("earlier_observations", "-1"),
        ("supports_rtc", "yes"),
        ("max_batch", "-1"),
        ("image_size", "224"),
        ("image_size", "224x0"),
        ("image_size", "1x2x3"),
        ("fps", "nan"),
        ("fps", "0"),
        ("fps", "inf"),
        ("fps", "fast"),
        ("versions", '{"torch": null}'),
    ],
)
def test_a_garbled_value_is_named(key: str, value: str):
    with pytest.raises(MalformedMessage, match=f"'{key}' is garbled"):
        card_from_status(with_value(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [("policy_type", ""), ("chunk_size", "0"), ("action_dim", "0"), ("input_features", "{}"), ("fingerprint", "")],
)
def test_a_ready_engine_says_what_it_serves(key: str, value: str):
    with pytest.raises(MalformedMessage, match=f"'{key}' is empty"):
        card_from_status(with_value(key, value))


def test_unknown_values_are_accepted():
    assert card_from_status(with_value("mood", "fine")) == CARD


def test_a_later_version_is_read_so_that_it_can_be_refused_by_name():
    assert card_from_status(with_value("wire", "2")).wire == 2


def test_a_value_twice_is_refused():
    status = with_value("mood", "fine")
    status.values.append(status.values[0])
    with pytest.raises(MalformedMessage, match="'wire' is there twice"):
        card_from_status(status)


def test_a_card_is_bounded():
    with pytest.raises(MalformedMessage, match="characters"):
        card_from_status(with_value("mood", "x" * 70_000))
    status = with_value("mood", "fine")
    status.values += [get_message("diagnostic_msgs/msg/KeyValue")(key=f"k{i}", value="") for i in range(60)]
    with pytest.raises(MalformedMessage, match="values"):
        card_from_status(status)


def test_another_status_is_no_card():
    status = over_the_wire(card_to_status(CARD))
    status.name = "act_inference_node"
    with pytest.raises(MalformedMessage, match="act_inference_node"):
        card_from_status(status)


def test_a_card_without_its_values_is_refused():
    with pytest.raises(MalformedMessage, match="'wire' is missing"):
        card_from_status(deserialize(golden("diagnostic_status"), STATUS))
