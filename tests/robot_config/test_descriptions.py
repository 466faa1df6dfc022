"""The meaning of a key is the text below its field, inherited where it is not written anew."""

from __future__ import annotations

from robot_config.__main__ import json_schema
from robot_config.contract import Qos, SensorQos
from robot_config.descriptions import descriptions
from robot_config.schema import ModelConfig


def test_the_text_below_a_field_is_its_description() -> None:
    assert descriptions(Qos)["depth"] == "How many messages are kept."
    assert descriptions(SensorQos) == descriptions(Qos)
    assert "``engine://``" in descriptions(ModelConfig)["path"] and "rtc" not in descriptions(ModelConfig)


def test_the_schema_for_editors_holds_them() -> None:
    definitions = json_schema()["$defs"]
    assert isinstance(definitions, dict)
    properties = definitions["ModelConfig"]["properties"]
    assert properties["policy_type"]["description"].startswith("Model family, such as ``act``")


def test_a_class_made_by_code_has_none() -> None:
    made = type("Made", (Qos,), {"__annotations__": {"more": int}, "more": 1})
    assert descriptions(made) == descriptions(Qos)
