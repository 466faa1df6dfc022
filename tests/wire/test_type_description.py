"""Type descriptions are those that ROS 2 hashed: the RIHS01 hash of ours is the one that jazzy computed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from inference_service.wire.interfaces import new_message, type_hash
from inference_service.wire.type_description import SERVICE, answer_type_request, describe_type

HASHES = json.loads((Path(__file__).parents[1] / "golden" / "type_hashes.json").read_text())["hashes"]


def _hashed(description: Any) -> str:
    """REP 2016's hash of a description: SHA-256 of its JSON, without default values."""

    def individual(one: Any) -> dict[str, Any]:
        keys = ("type_id", "capacity", "string_capacity", "nested_type_name")
        fields = [{"name": f.name, "type": {key: _plain(getattr(f.type, key)) for key in keys}} for f in one.fields]
        return {"type_name": one.type_name, "fields": fields}

    text = json.dumps(
        {
            "type_description": individual(description.type_description),
            "referenced_type_descriptions": [individual(one) for one in description.referenced_type_descriptions],
        }
    )
    return f"RIHS01_{hashlib.sha256(text.encode()).hexdigest()}"


def _plain(value: Any) -> int | str:
    return value if isinstance(value, str) else int(value)


# Nobody sends an action as a whole, or its services: their definitions are not here.
WHOLE = re.compile(r"\w+/action/[A-Za-z]+(_(SendGoal|GetResult)(_Event)?)?")


@pytest.mark.parametrize("type_name", sorted(name for name in HASHES if not WHOLE.fullmatch(name)))
def test_a_description_has_the_hash_that_ros_computed(type_name: str) -> None:
    assert _hashed(describe_type(type_name)) == HASHES[type_name]


def _ask(type_name: str, type_hash: str, sources: bool = True) -> Any:
    request = new_message(f"{SERVICE}_Request", type_name=type_name, type_hash=type_hash, include_type_sources=sources)
    return answer_type_request(request)


def test_a_known_type_is_answered_with_its_files() -> None:
    name = "ibrobot_msgs/msg/VariantsList"
    answer = _ask(name, type_hash(name) or "")
    assert answer.successful and not answer.failure_reason
    assert answer.type_description.type_description.type_name == name
    sources = {one.type_name: one for one in answer.type_sources}
    assert sources.keys() == {name, *(o.type_name for o in answer.type_description.referenced_type_descriptions)}
    assert (sources[name].encoding, "Variant[]" in sources[name].raw_file_contents) == ("msg", True)
    assert not _ask(name, "", sources=False).type_sources


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("std_msgs/msg/String", "RIHS01_" + "0" * 64),
        ("std_msgs/msg/Nothing", ""),
        ("no type at all", ""),
        ("ibrobot_msgs/action/DispatchInfer", ""),
    ],
)
def test_an_unknown_type_or_another_hash_is_refused_by_name(name: str, hashed: str) -> None:
    answer = _ask(name, hashed)
    assert not answer.successful
    assert name in answer.failure_reason
