"""A robot file becomes a typed robot, or an error that names file, line, key and what would be right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from robot_files import FULL, MINIMAL, line_of

from robot_config import ConfigError, RobotConfig, load_robot_config, robot_names
from robot_config import foreign as table

Write = Callable[..., Path]

SNIPPET = """\
# src/robot_config/config/robots/your_robot.yaml
control_modes:
  model_inference:
    inference:
      enabled: true
      execution_mode: "distributed" # Or "monolithic"
      model: so101_act
"""


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_robot_config(path)
    return [str(p) for p in caught.value.problems]


def test_values_and_defaults_of_a_robot(write: Write) -> None:
    cfg = load_robot_config(write())
    mode = cfg.control_mode()
    assert (cfg.name, cfg.joint_names, cfg.config_path.name) == ("arm", ("1", "2", "3"), "arm.yaml")
    assert mode.inference.request_timeout == 5.0
    assert mode.inference.cloud_inference_topic == "/preprocessed/batch"
    assert (mode.executor.queue_size, mode.executor.control_frequency) == (50, 20.0)
    assert cfg.contract.observations[0].type == "sensor_msgs/msg/Image"
    assert cfg.contract.observations[1].type == "sensor_msgs/msg/JointState"
    assert cfg.contract.observations[0].qos.reliability == "best_effort"
    assert (cfg.safety.hold_timeout_s, cfg.safety.on_timeout, cfg.safety.latch) == (1.0, "hold", False)
    assert cfg.warnings == ()


def test_a_robot_is_frozen(write: Write) -> None:
    cfg = load_robot_config(write())
    with pytest.raises(ValidationError):
        cfg.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        cfg.contract.rate_hz = 5.0  # type: ignore[misc]


def test_the_documented_snippet_is_a_valid_file(write: Write) -> None:
    cfg = load_robot_config(write(text=SNIPPET, name="your_robot.yaml"))
    assert cfg.name == "your_robot"
    assert cfg.control_mode().inference.execution_mode == "distributed"
    assert any("models" in warning for warning in cfg.warnings)


def test_a_fragment_at_the_top_adds_to_the_robot_section(write: Write) -> None:
    text = MINIMAL + "control_modes:\n  slow:\n    executor: {control_frequency: 5}\n"
    cfg = load_robot_config(write(text=text))
    assert set(cfg.control_modes) == {"model_inference", "slow"}
    assert cfg.control_modes["slow"].executor.control_frequency == 5.0


def test_a_value_given_in_both_places_names_both_lines(write: Write) -> None:
    path = write(text=MINIMAL + "contract:\n  rate_hz: 30\n")
    first, last = line_of(path, "rate_hz: 20"), line_of(path, "rate_hz: 30")
    assert problems(path) == [
        f"{path}:{last}: contract.rate_hz: given twice: here and as robot.contract.rate_hz in line {first}; keep one"
    ]


def test_a_file_of_ib_robots_shape_loads_unchanged(write: Write) -> None:
    cfg = load_robot_config(write(text=FULL))
    assert cfg.joints["arm"] == ("1", "2")
    assert cfg.model("second").device == "rknn"
    assert cfg.model("first").lerobot_norm_mode == "range_m100_100"
    assert {name: (v.min, v.max) for name, v in cfg.safety.joint_limits.items()}["2"] == (-1.9, 1.9)
    assert cfg.contract.actions[2].safety_behavior == "zeros"
    assert [w.partition(": ")[2] for w in cfg.warnings] == [
        "robot.contract.actions: joints.all has no joint for action.3: no joint limits apply there"
    ]


@pytest.mark.parametrize("key", sorted(table.ROBOT))
def test_foreign_keys_are_accepted_by_name_only(write: Write, key: str) -> None:
    load_robot_config(write(text=f"{MINIMAL}  {key}: {{anything: [1, 2]}}\n"))
    path = write(text=f"{MINIMAL}  {key}x: {{anything: [1, 2]}}\n")
    assert f"unknown key '{key}x'" in problems(path)[0]


def test_an_unknown_key_names_the_nearest(write: Write) -> None:
    path = write("queue_size: 50", "queue_sise: 50")
    line = line_of(path, "queue_sise")
    assert problems(path) == [
        f"{path}:{line}: robot.control_modes.model_inference.executor.queue_sise: "
        "unknown key 'queue_sise'; did you mean 'queue_size'?"
    ]


def test_an_unknown_key_without_a_neighbour_lists_what_is_accepted(write: Write) -> None:
    (problem,) = problems(write("safety:\n", "safety:\n    zzz: 1\n"))
    assert "safety takes joint_limits, max_joint_velocity" in problem


def test_duplicate_keys_name_both_lines(write: Write) -> None:
    path = write("    rate_hz: 20\n", "    rate_hz: 20\n    rate_hz: 30\n")
    line = line_of(path, "rate_hz: 30")
    assert problems(path) == [
        f"{path}:{line}: robot.contract.rate_hz: given twice: here and in line {line - 1}; keep one"
    ]


def test_a_quoted_and_a_plain_number_are_the_same_key(write: Write) -> None:
    (problem,) = problems(write('      "3": {min: 0.0', '      1: {min: 0.0, max: 1.0}\n      "3": {min: 0.0'))
    assert "safety.joint_limits.1: given twice" in problem


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("queue_size: 50", 'queue_size: "50"', "queue_size: expected a whole number, found the text '50'"),
        ("queue_size: 50", "queue_size: 0", "queue_size: 0: should be greater than or equal to 1"),
        ("enabled: true", "enabled: 1", "enabled: expected true or false, found the number 1"),
        ("rate_hz: 20", "rate_hz: fast", "contract.rate_hz: expected a number, found the text 'fast'"),
        ("rate_hz: 20", "rate_hz: .inf", "contract.rate_hz: inf: should be a finite number"),
        ("rate_hz: 20", "rate_hz: true", "contract.rate_hz: expected a number, found true (true/false)"),
        (
            "monolithic",
            "distibuted",
            "'distibuted' is not accepted: one of monolithic, distributed (did you mean distributed?)",
        ),
        ("/joint_states", '"/joint states"', "observations[1].topic: '/joint states' is not a ROS topic name"),
        (
            "- selector: {names: [action.2]}",
            "- selector: 7",
            "actions[1].selector: expected a section, found the number 7",
        ),
        ("[action.2]", "action.2", "actions[1].selector.names: expected a list, found the text 'action.2'"),
        ("min: 0.0, max: 1.5", "min: 1.5, max: 0.0", "safety.joint_limits.3: min 1.5 is not below max 0.0"),
        ("min: 0.0, max: 1.5", "min: 0.0", "safety.joint_limits.3: `max:` is missing"),
        (
            "{path: policies/reach, policy_type",
            "{policy_type",
            "models.reach: `path:` is missing (LeRobot policy directory",
        ),
    ],
)
def test_a_wrong_value_says_what_is_accepted(write: Write, old: str, new: str, message: str) -> None:
    path = write(old, new)
    (problem,) = problems(path)
    assert message in problem
    assert problem.startswith(f"{path}:")
    assert int(problem.removeprefix(f"{path}:").partition(":")[0]) > 0


def test_every_problem_is_reported_not_only_the_first(write: Write) -> None:
    text = MINIMAL.replace("rate_hz: 20", "rate_hz: 0").replace("queue_size", "queu_size").replace("hold\n", "hodl\n")
    found = problems(write(text=text))
    assert len(found) == 4
    assert [int(p.split(":")[1]) for p in found] == sorted(int(p.split(":")[1]) for p in found)


def test_a_misspelt_key_hides_no_cross_check(write: Write) -> None:
    text = MINIMAL.replace("model: reach", "modle: raech")
    found = problems(write(text=text))
    assert len(found) == 2
    assert "unknown key 'modle'; did you mean 'model'?" in "".join(found)
    assert "no model 'raech' under models: did you mean 'reach'?" in "".join(found)


def test_broken_yaml_names_the_line(write: Write) -> None:
    path = write("    rate_hz: 20\n", "    rate_hz: [20\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:")
    assert "not valid YAML" in problem


@pytest.mark.parametrize(("text", "message"), [("- 1\n", "expected a mapping"), ("robot: 3\n", "expected a section")])
def test_a_file_without_sections_is_refused(write: Write, text: str, message: str) -> None:
    assert message in problems(write(text=text))[0]


def test_a_yaml_bomb_is_refused_before_it_grows(write: Write) -> None:
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "too large or too deeply nested" in problems(write(text="\n".join(rows)))[0]


def test_anchors_and_merge_keys(write: Write) -> None:
    text = MINIMAL.replace("peripheral: top\n", "peripheral: top\n        qos: &q {depth: 3}\n").replace(
        "selector: {names: [position.1", "qos: {<<: *q, reliability: reliable}\n        selector: {names: [position.1"
    )
    cfg = load_robot_config(write(text=text))
    assert cfg.contract.observations[1].qos.depth == 3
    assert cfg.contract.observations[1].qos.reliability == "reliable"


def test_defaults_that_follow_from_other_keys(write: Write) -> None:
    text = MINIMAL.replace(", control_frequency: 20", "").replace("rate_hz: 20", "rate_hz: 15")
    text = text.replace('    all: ["1", "2", "3"]\n', "").replace("  default_control_mode: model_inference\n", "")
    cfg = load_robot_config(write(text=text.replace("model_inference:", "act:")))
    assert cfg.control_mode().executor.control_frequency == 15.0
    assert cfg.joints["all"] == ("1", "2", "3")
    assert cfg.default_control_mode == "act"


def test_every_key_knows_its_line(write: Write) -> None:
    path = write()
    cfg = load_robot_config(path)
    assert cfg.contract.observations[1].where("topic") == f"{path}:{line_of(path, '/joint_states')}"
    assert cfg.safety.where("joint_limits", "2", "max") == f"{path}:{line_of(path, 'min: -2.0')}"


def test_robots_are_found_by_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(name="my_arm.yaml")
    monkeypatch.setenv("ROBOT_CONFIG_PATH", str(path.parent))
    assert load_robot_config("my_arm").config_path == path
    assert {"my_arm", "so101_sim", "so101_single_arm"} <= set(robot_names())
    with pytest.raises(ConfigError, match="did you mean 'so101_sim'"):
        load_robot_config("so101_smi")
    with pytest.raises(ConfigError, match="no such file"):
        load_robot_config(path.parent / "missing.yaml")


@pytest.mark.parametrize("name", ["so101_sim", "so101_single_arm"])
def test_the_robots_that_come_with_the_package(name: str) -> None:
    cfg = load_robot_config(name)
    assert cfg.warnings == ()
    assert cfg.joint_names == ("1", "2", "3", "4", "5", "6")
    specs = cfg.contract.select(["observation.images.top", "observation.images.wrist", "observation.state"])
    assert [s.align.stamp for s in specs] == ["header"] * 3
    actions = cfg.action_map()
    assert actions.joints == cfg.joint_names
    assert actions.targets[5] == ("/gripper_position_controller/commands", 0)
    assert all(-3.0 < low < high < 3.0 for low, high in zip(actions.lower, actions.upper, strict=True))
    assert cfg.control_mode().executor.control_frequency == cfg.contract.rate_hz == 20.0


def test_the_simulated_and_the_real_arm_speak_on_the_same_topics() -> None:
    sim, real = load_robot_config("so101_sim"), load_robot_config("so101_single_arm")
    assert sim.contract == real.contract or [o.topic for o in sim.contract.observations] == [
        o.topic for o in real.contract.observations
    ]
    assert sim.action_map().targets == real.action_map().targets
    assert sim.model("so101_act").path == real.model("so101_act").path


def test_a_robot_can_be_made_in_code() -> None:
    cfg = RobotConfig.model_validate({"name": "coded", "joints": {"arm": ["a", "b"]}})
    assert cfg.joint_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: expected a mapping at the top, found nothing"),
        ("# a comment\n", ":1: expected a mapping at the top, found nothing"),
        ("a: " + "[" * 3000 + "]" * 3000, ": not valid YAML: too deeply nested"),
        ("a: 1\nb: " + "9" * 5000, ":2: not valid YAML: 9999999999999999999999999999999999999999… looks like"),
        ("name: 2026-99-01", ":1: not valid YAML: 2026-99-01 looks like a value of type timestamp and is none: put"),
        ("#" * 1_000_001, ": 1000001 bytes: a robot file has 1000000 at most"),
    ],
)
def test_an_odd_file_is_one_clear_line(write: Write, text: str, says: str) -> None:
    path = write(text=text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}{says}")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "directory.yaml").mkdir()
    for name in ("pipe.yaml", "directory.yaml"):
        assert problems(tmp_path / name) == [f"{tmp_path / name}: cannot be read: it is not a file"]
