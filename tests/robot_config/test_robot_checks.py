"""Cross checks: names that refer to each other, and numbers that only make sense together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robot_files import MINIMAL, line_of

from robot_config import ConfigError, load_robot_config

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: reach}", "model: raech}", "inference.model: no model 'raech' under models: did you mean 'reach'?"),
        (", model: reach}", "}", "inference: enabled, but no `model:`"),
        ("default_control_mode: model_", "default_control_mode: modle_", "no control mode 'modle_inference'"),
        (
            "peripheral: top",
            "peripheral: topp",
            "peripheral: no peripheral 'topp' under peripherals: did you mean 'top'?",
        ),
        ("position.2", "position.22", "no such joint: position.22"),
        ("position.2", "speed.2", "no such joint: speed.2 (a JointState has position, velocity, effort)"),
        ("action.1]", "action.2]", "action.2 already goes to /arm/commands"),
        ("action.2]", "action.3]", "action.2 goes nowhere"),
        ("action.2]", "grip]", "some names are action.N and some are not"),
        ("action.2]", "action.x]", "expected action.<number>, found action.x"),
        ("[action.0, action.1]", "[action.0]", "action.1 goes nowhere"),
        ("[action.2]", "[]", "cover 2 of 3 joints; nothing moves 3"),
        ('      "3": {', '      "4": {', "safety.joint_limits.4: no joint '4' in joints.all"),
        ('gripper: ["3"]', 'gripper: ["4"]', "joints.gripper[0]: joint '4' is not in joints.all"),
        ('all: ["1", "2", "3"]', 'all: ["1", "2", "3", "3"]', "joints.all[3]: joint '3' is named twice"),
        ("watermark_threshold: 10", "watermark_threshold: 50", "50 is not below queue_size 50"),
        (
            "model: reach}",
            "model: reach, encodings: {observation.images.tap: jpeg}}",
            "encodings.observation.images.tap: no picture 'observation.images.tap' among contract.observations: "
            "did you mean 'observation.images.top'?",
        ),
        (
            "model: reach}",
            "model: reach, encodings: {default: jpeg:99}}",
            "encodings.default: 'jpeg:99' is no encoding: u8, jpeg, jpeg:<quality from 1 to 95>, f16 or f32",
        ),
        (
            "        peripheral: top",
            "        peripheral: top\n        qos: {durability: transient_local}",
            "qos.durability: transient_local gives the last message of long ago",
        ),
        ("queue_size: 50", "type: action, queue_size: 50", "sends commands by topic: write type: topic"),
    ],
)
def test_inconsistencies_are_refused(write: Write, old: str, new: str, message: str) -> None:
    path = write(old, new)
    with pytest.raises(ConfigError) as caught:
        load_robot_config(path)
    assert message in str(caught.value)
    assert all(p.line > 0 and p.key for p in caught.value.problems)


def test_what_was_kept_may_be_asked_for_by_its_own_stamp(write: Write) -> None:
    load_robot_config(
        write(
            "        peripheral: top",
            "        peripheral: top\n        qos: {durability: transient_local}\n        align: {stamp: header}",
        )
    )


def test_encodings_by_camera_and_for_the_others(write: Write) -> None:
    path = write("model: reach}", "model: reach, encodings: {default: u8, observation.images.top: 'jpeg:90'}}")
    encodings = load_robot_config(path).control_mode().inference.encodings
    assert encodings == {"default": "u8", "observation.images.top": "jpeg:90"}


def test_a_peripheral_defined_twice(write: Write) -> None:
    path = write("  contract:\n", "    - {type: camera, name: top}\n  contract:\n")
    with pytest.raises(ConfigError, match="peripheral 'top' is defined twice"):
        load_robot_config(path)


def test_another_rate_than_the_datas_is_a_warning_that_names_both(write: Write) -> None:
    path = write("control_frequency: 20", "control_frequency: 50")
    (warning,) = load_robot_config(path).warnings
    assert warning.startswith(f"{path}:{line_of(path, 'control_frequency: 50')}: ")
    assert "50 Hz, but contract.rate_hz is 20: the robot moves 2.5 times as fast" in warning


def test_the_rate_of_a_mode_without_a_policy_is_its_own(write: Write) -> None:
    path = write("  control_modes:\n", "  control_modes:\n    teleop: {executor: {control_frequency: 50}}\n")
    assert load_robot_config(path).warnings == ()


def test_joints_without_limits_are_a_warning(write: Write) -> None:
    (warning,) = load_robot_config(write('      "3": {min: 0.0, max: 1.5}\n', "")).warnings
    assert "no joint limits for 3" in warning


def test_a_contract_no_policy_uses_is_only_a_warning(write: Write) -> None:
    text = MINIMAL.replace("enabled: true", "enabled: false").replace("[action.2]", "[0, 5]")
    warnings = load_robot_config(write(text=text)).warnings
    assert len(warnings) == 1
    assert "use one form" in warnings[0]


def test_a_force_disabled_mode_runs_no_policy(write: Write) -> None:
    path = write("enabled: true, execution_mode: monolithic, model: reach", "enabled: true, force_disable: true")
    assert load_robot_config(path).control_mode().inference.runs is False
