"""The ROS launch files, run by a stand-in of ``launch`` and ``launch_ros`` that takes what those take, no more."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from robot_files import MINIMAL

import robot_config
from inference_service.nodes.runtime import build_parameters, parse_arguments
from robot_config import LaunchArgumentError, load_robot_config
from robot_config.plan import EngineArguments, LaunchArguments, make_engine_plan, make_plan, table

ROOT = Path(robot_config.__file__).parents[1]
ROBOT = ROOT / "robot_config/launch/robot.launch.py"
ENGINE = ROOT / "inference_service/launch/cloud_inference.launch.py"
Run = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests/simulators/ros_launch"))


@pytest.fixture
def launched() -> Run:
    """What a launch file starts for these arguments, as ``ros2 launch`` goes about it."""

    def run(file: Path, **given: str) -> list[Any]:
        import launch
        from launch.actions import DeclareLaunchArgument, OpaqueFunction

        description = runpy.run_path(str(file))["generate_launch_description"]()
        assert isinstance(description, launch.LaunchDescription)
        context = launch.LaunchContext()
        context.launch_configurations.update(given)
        started: list[Any] = []
        for entity in description.entities:
            if isinstance(entity, DeclareLaunchArgument):
                if entity.default_value is not None:
                    context.launch_configurations.setdefault(entity.name, entity.default_value)
                elif entity.name not in context.launch_configurations:
                    raise RuntimeError(f"Required launch argument '{entity.name}' was not provided.")
            elif isinstance(entity, OpaqueFunction):
                started += entity.execute(context) or ()
        return started

    return run


@pytest.fixture
def robot_file(tmp_path: Path) -> Path:
    (tmp_path / "policies/reach").mkdir(parents=True)
    path = tmp_path / "arm.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(("file", "arguments"), [(ROBOT, LaunchArguments), (ENGINE, EngineArguments)])
def test_every_argument_is_declared_with_a_description(file: Path, arguments: type) -> None:
    from launch.actions import DeclareLaunchArgument

    entities = runpy.run_path(str(file))["generate_launch_description"]().entities
    declared = {e.name: e for e in entities if isinstance(e, DeclareLaunchArgument)}
    assert list(declared) == [row.name for row in table(arguments)]
    for row in table(arguments):
        assert row.description in declared[row.name].description
        assert declared[row.name].default_value == ("auto" if row.name == "transport" else row.default)
    assert any("[dds, ros, auto]" in e.description for e in declared.values())


def test_a_robot_starts_the_processes_of_its_plan(launched: Run, robot_file: Path, tmp_path: Path) -> None:
    words = {"config_path": str(robot_file), "execution_mode": "distributed", "use_sim": "True", "cloud_local": "true"}
    nodes = launched(ROBOT, **words, someone_elses_argument="7")
    arguments = LaunchArguments(
        config_path=str(robot_file), execution_mode="distributed", use_sim=True, cloud_local=True, transport="auto"
    )
    plan = make_plan(load_robot_config(robot_file), arguments)
    assert [n.executable for n in nodes] == [p.executable for p in plan.processes]
    assert [n.name for n in nodes] == ["sim_robot", "pure_inference", "act_inference_node", "action_dispatcher"]
    for node, process in zip(nodes, plan.processes, strict=True):
        (parameters,) = node.parameters
        assert {key: value.value for key, value in parameters.items()} == dict(process.parameters)
        assert all(value.value_type is type(value.value) for value in parameters.values())


def test_what_to_run_on_the_other_machine_is_logged(launched: Run, robot_file: Path) -> None:
    from launch.actions import LogInfo

    first, *nodes = launched(ROBOT, config_path=str(robot_file), execution_mode="distributed")
    assert isinstance(first, LogInfo) and "ros2 launch inference_service cloud_inference.launch.py" in first.msg
    assert [n.name for n in nodes] == ["act_inference_node", "action_dispatcher"]


def test_the_engine_starts_alone(launched: Run, tmp_path: Path) -> None:
    (node,) = launched(ENGINE, policy_path=str(tmp_path), device="ascend_om")
    (process,) = make_engine_plan(
        EngineArguments(policy_path=str(tmp_path), device="ascend_om", transport="auto")
    ).processes
    assert (node.package, node.executable) == ("inference_service", "pure_inference_node")
    assert {key: value.value for key, value in node.parameters[0].items()} == dict(process.parameters)
    with pytest.raises(RuntimeError, match="'policy_path' was not provided"):
        launched(ENGINE)


def test_a_wrong_argument_is_explained_by_the_plan(launched: Run) -> None:
    with pytest.raises(LaunchArgumentError, match="did you mean 'distributed'"):
        launched(ROBOT, execution_mode="distribute")


def test_the_nodes_take_the_command_lines(
    launched: Run, robot_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From launch argument to typed parameter, over the line and the file that launch_ros would write."""
    from importlib import import_module

    prefix = tmp_path / "prefix"
    (prefix / "lib/inference_service").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/inference_service").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    types = {
        "lerobot_policy_node": ("policy_node", "PolicyParameters"),
        "pure_inference_node": ("engine_node", "EngineParameters"),
        "action_dispatcher_node": ("dispatcher_node", "DispatcherParameters"),
        "sim_robot": ("sim_robot", "SimRobotParameters"),
    }
    words = {"config_path": str(robot_file), "execution_mode": "distributed", "use_sim": "true", "cloud_local": "true"}
    for node in launched(ROBOT, **words):
        executable = prefix / "lib/inference_service" / node.executable
        executable.touch(mode=0o755)
        command = node.command(tmp_path)
        assert command[0] == str(executable)
        module, name = types[node.executable]
        parameters_type = getattr(import_module(f"inference_service.nodes.{module}"), name)
        built = build_parameters(parameters_type, parse_arguments(command[1:], "another"))
        for key, value in node.parameters[0].items():
            assert getattr(built, key) == value.value, key
