"""Command lines as ``ros2 launch`` and ``ros2 run`` write them, and what a node makes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference_service.core.errors import TransportError
from inference_service.nodes.dispatcher_node import DispatcherParameters
from inference_service.nodes.engine_node import EngineParameters
from inference_service.nodes.ros_arguments import ParameterError, parse_arguments
from inference_service.nodes.runtime import build_parameters
from inference_service.transport import create_node

# What launch_ros 0.28 (jazzy) wrote for Node(name="pure_inference", parameters=[{…}]) of a plan.
LAUNCH_FILE = """\
/**:
  ros__parameters:
    device: auto
    input_topic: /preprocessed/batch
    node_name: pure_inference
    output_topic: /inference/action
    policy_path: /models/2024
    threads: 0
    transport: auto
    use_sim_time: false
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "launch_params_1"
    path.write_text(LAUNCH_FILE)
    return path


def test_the_line_of_a_launch_file(params: Path) -> None:
    argv = ["--ros-args", "-r", "__node:=pure_inference", "--params-file", str(params)]
    built = build_parameters(EngineParameters, parse_arguments(argv, "pure_inference"))
    assert (built.node_name, built.policy_path, built.threads, built.use_sim_time, built.transport) == (
        "pure_inference",
        "/models/2024",
        0,
        False,
        "auto",
    )


def test_a_pushed_namespace_names_the_node_in_full(params: Path) -> None:
    params.write_text(LAUNCH_FILE.replace("/**:", "/robot_1/pure_inference:"))
    argv = ["--ros-args", "-r", "__node:=pure_inference", "-r", "__ns:=/robot_1", "--params-file", str(params)]
    built = build_parameters(EngineParameters, parse_arguments(argv, "pure_inference"))
    assert (built.namespace, built.node_name, built.policy_path) == ("/robot_1", "pure_inference", "/models/2024")
    with pytest.raises(ParameterError, match="'policy_path' is required"):
        build_parameters(EngineParameters, parse_arguments([*argv[:4], "__ns:=/robot_2", *argv[5:]], "pure_inference"))


def test_a_remapped_name_wins_over_the_parameter(params: Path) -> None:
    argv = ["--ros-args", "-r", "__node:=other", "--params-file", str(params), "-r", "__name:=third"]
    assert parse_arguments(argv, "pure_inference")["node_name"] == "other"
    assert parse_arguments(["--ros-args", "-r", "elsewhere:__node:=x"], "pure_inference") == {}


def test_global_parameters_are_yaml_and_yield_to_the_node(params: Path) -> None:
    """SetUseSimTime gives ``-p use_sim_time:=True`` first; Parameter() gives a value with YAML's end marker."""
    argv = ["--ros-args", "-p", "use_sim_time:=True", "-p", "log_level:=warn\n...\n", "-p", "device:='007'"]
    assert parse_arguments(argv) == {"use_sim_time": "True", "log_level": "warn", "device": "007"}
    values = parse_arguments([*argv, "--params-file", str(params)], "pure_inference")
    assert (values["use_sim_time"], values["device"], values["log_level"]) == ("false", "auto", "warn")


def test_booleans_numbers_and_empty_strings_keep_their_meaning(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**:\n  ros__parameters: {robot_config_path: a.yaml, use_sim_time: true, queue_size: 30,\n"
        "    control_frequency: 12.5, control_mode: ''}\n"
    )
    built = build_parameters(DispatcherParameters, parse_arguments(["--ros-args", "--params-file", str(path)]))
    assert (built.use_sim_time, built.queue_size, built.control_frequency) == (True, 30, 12.5)
    assert built.control_mode == ""


def test_only_sections_that_mean_the_node_count_and_the_exact_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "pure_inference:\n  ros__parameters: {device: cuda}\n"
        "/**:\n  ros__parameters: {device: cpu, threads: 3, start_type_description_service: true,\n"
        "    qos_overrides: {/rosout: {publisher: {depth: 1}}}}\n"
        "/act_inference_node:\n  ros__parameters: {checkpoint: x}\n"
        "robot_1:\n  '*':\n    ros__parameters: {policy_path: here}\n"
    )
    words = ["--ros-args", "--params-file", str(path)]
    assert parse_arguments(words, "pure_inference") == {"device": "cuda", "threads": "3"}
    within = parse_arguments([*words, "-r", "__ns:=/robot_1"], "pure_inference")
    assert within["policy_path"] == "here"


def test_ros_logging_and_security_switches_are_taken() -> None:
    argv = ["--ros-args", "--log-level", "DEBUG", "--enclave", "/robot", "--disable-rosout-logs", "--", "threads:=2"]
    assert parse_arguments(argv) == {"log_level": "DEBUG", "threads": "2"}
    built = build_parameters(EngineParameters, {"policy_path": "x", **parse_arguments(argv)})
    assert built.log_level == "debug"
    named = ["--ros-args", "--log-level", "pure_inference:=warn", "--log-level", "rcl:=debug"]
    assert parse_arguments(named, "pure_inference") == {"log_level": "warn"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ros-args", "-r", "/a:=/b"], "remapping '/a' is not supported"),
        (["--ros-args", "--params-file"], "--params-file needs a value"),
        (["--ros-args", "-p", "device"], "'device' is not understood"),
        (["--ros-args", "--frobnicate"], "'--frobnicate' is not understood"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_what_is_not_understood_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_arguments(argv)


@pytest.mark.parametrize(
    "text",
    ["[1]", "/**: 3", "/**: {ros__parameters: [1]}", "/**: {ros__parameters: {device: [1, 2]}}", "a: b: c"],
)
def test_a_bad_parameter_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"bad\.yaml"):
        parse_arguments(["--ros-args", "--params-file", str(path)])


def test_auto_takes_dds_where_rclpy_is_not_installed(domain_id: int) -> None:
    pytest.importorskip("cyclonedds")
    node = create_node("anyone", "auto")
    node.close()
    with pytest.raises(TransportError, match="wants one of auto, dds, ros"):
        create_node("anyone", "zenoh")


def test_a_folder_called_rclpy_is_no_rclpy(domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cyclonedds")
    if find_spec("rclpy") is not None:
        pytest.skip("rclpy is here")
    (tmp_path / "rclpy").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    node = create_node("anyone", "auto")
    assert type(node).__module__.startswith("inference_service.transport.dds")
    node.close()
    with pytest.raises(TransportError, match="needs rclpy, which is not installed here"):
        create_node("anyone", "ros")


def test_a_node_started_by_such_a_line_says_its_parameters_are_wrong(params: Path) -> None:
    """The real process, as launch_ros starts it: a policy that is not there ends it with status 2 and a reason."""
    argv = ["--ros-args", "-r", "__node:=engine_7", "--log-level", "info", "--params-file", str(params)]
    command = [sys.executable, "-m", "inference_service.cli", "run", "pure_inference_node", *argv]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert run.returncode == 2, (run.stderr, signal.Signals)
    assert "/models/2024" in run.stderr
