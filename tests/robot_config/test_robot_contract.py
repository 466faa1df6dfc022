"""The contract as a policy and a dispatcher use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from robot_files import FULL, line_of

from robot_config import ContractError, load_robot_config

Write = Callable[..., Path]


def test_select_follows_the_policys_order_and_leaves_the_rest(write: Write) -> None:
    contract = load_robot_config(write(text=FULL)).contract
    chosen = contract.select(["observation.state", "observation.images.top", "task"])
    assert [spec.key for spec in chosen] == ["observation.state", "observation.images.top"]


def test_streams_of_one_key_are_parts_in_file_order(write: Write) -> None:
    extra = "      - {key: observation.state, topic: /wheels, selector: {names: [velocity.1]}}\n    actions:\n"
    contract = load_robot_config(write("    actions:\n", extra)).contract
    assert [spec.topic for spec in contract.select(["observation.state"])] == ["/joint_states", "/wheels"]


def test_a_missing_stream_shows_both_sides_and_the_line_to_change(write: Write) -> None:
    path = write()
    contract = load_robot_config(path).contract
    with pytest.raises(ContractError) as caught:
        contract.select(["observation.images.front", "observation.state"])
    text = str(caught.value)
    assert "the contract lacks observation.images.front:" in text
    assert "policy needs               robot gives" in text
    assert "observation.images.front   -- nothing --" in text
    assert "observation.state          observation.state (/joint_states)" in text
    assert "observation.images.top (unused)" in text
    place = f"{path}:{line_of(path, 'key: observation.images.top')}"
    assert f"{place}: change `key: observation.images.top` to `key: observation.images.front`" in text


def test_a_missing_stream_without_a_candidate_asks_for_an_entry(write: Write) -> None:
    path = write()
    with pytest.raises(ContractError) as caught:
        load_robot_config(path).contract.select(["observation.effort_of_the_wheels"])
    assert f"{path}:{line_of(path, 'observations:')}: add an entry with `key: observation.effort_of_the_wheels`" in str(
        caught.value
    )


def test_the_action_map(write: Write) -> None:
    actions = load_robot_config(write()).action_map()
    assert actions.dim == 3
    assert actions.targets == (("/arm/commands", 0), ("/arm/commands", 1), ("/gripper/commands", 0))
    assert [(c.topic, c.indices) for c in actions.channels] == [("/arm/commands", (0, 1)), ("/gripper/commands", (2,))]
    assert actions.joints == ("1", "2", "3")
    assert (actions.lower, actions.upper) == ((-1.0, -2.0, 0.0), (1.0, 2.0, 1.5))


def test_written_indices_count_not_their_order_in_the_file(write: Write) -> None:
    text_of = {"[action.0, action.1]": "[action.2, action.0]", "[action.2]": "[action.1]"}
    path = write()
    text = path.read_text()
    for old, new in text_of.items():
        text = text.replace(old, new)
    actions = load_robot_config(write(text=text)).action_map()
    assert actions.targets == (("/arm/commands", 1), ("/gripper/commands", 0), ("/arm/commands", 0))


def test_names_without_indices_are_numbered_in_file_order(write: Write) -> None:
    text = write().read_text().replace("action.0", "position.1").replace("action.1", "position.2")
    actions = load_robot_config(write(text=text.replace("action.2", "position.3"))).action_map()
    assert [c.indices for c in actions.channels] == [(0, 1), (2,)]


def test_clamp_narrows_the_limits_and_unnamed_actuators_have_none(write: Write) -> None:
    actions = load_robot_config(write(text=FULL)).action_map()
    assert actions.joints[3] is None
    assert (actions.lower[2], actions.upper[2]) == (0.0, 1.0)
    assert (actions.lower[3], actions.upper[3]) == (-math.inf, math.inf)


def test_a_camera_without_a_topic_has_the_usual_one(write: Write) -> None:
    contract = load_robot_config(write("        topic: /camera/top/image_raw\n", "")).contract
    assert contract.observations[0].topic == "/camera/top/image_raw"
