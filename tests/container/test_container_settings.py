"""Environment and mounts of a container, and the processes they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.container.settings import ROLES, ContainerError, Settings, make_container_plan
from robot_config import RobotConfigError

REPO = Path(__file__).resolve().parents[2]
POLICY = REPO / "policies/so101_act_demo"
ROBOTS = REPO / "robot_config/robots"


def _settings(role: str, tmp_path: Path, **env: str) -> Settings:
    made = Settings.read(role, env)
    return Settings(**{**made.__dict__, "model": POLICY, "robots": ROBOTS})


def test_an_empty_variable_counts_as_unset() -> None:
    read = Settings.read("engine", {"ROBOT_CONFIG": "", "ENGINE_DEVICE": "cuda:1", "ENGINE_THREADS": ""})
    assert read == Settings("engine", device="cuda:1")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ContainerError, match="no role 'robot': wants one of device, monolithic, engine, sim"):
        Settings.read("robot", {})


@pytest.mark.parametrize(
    ("role", "nodes"),
    [
        ("device", ["act_inference_node", "action_dispatcher"]),
        ("monolithic", ["act_inference_node", "action_dispatcher"]),
        ("engine", ["pure_inference"]),
        ("sim", ["sim_robot"]),
    ],
)
def test_each_role_starts_its_own_nodes(role: str, nodes: list[str], tmp_path: Path) -> None:
    plan = make_container_plan(_settings(role, tmp_path))
    assert [process.name for process in plan.processes] == nodes
    assert set(ROLES) == {"device", "monolithic", "engine", "sim"}


def test_only_the_monolithic_device_computes(tmp_path: Path) -> None:
    by_role = {
        role: make_container_plan(_settings(role, tmp_path, ENGINE_DEVICE="onnx")).processes[0].parameters
        for role in ("device", "monolithic")
    }
    assert (by_role["device"]["execution_mode"], by_role["device"]["device"]) == ("distributed", "cpu")
    assert (by_role["monolithic"]["execution_mode"], by_role["monolithic"]["device"]) == ("monolithic", "onnx")
    assert by_role["device"]["checkpoint"] == str(POLICY)


def test_a_device_may_take_its_policy_from_the_engine(tmp_path: Path) -> None:
    settings = _settings("device", tmp_path, POLICY="engine://feed")
    assert not settings.needs_model
    assert make_container_plan(settings).processes[0].parameters["checkpoint"] == "engine://feed"


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_what_computes_takes_device_and_threads(role: str, tmp_path: Path) -> None:
    settings = _settings(role, tmp_path, ENGINE_DEVICE="rknn", ENGINE_THREADS="3")
    parameters = make_container_plan(settings).processes[0].parameters
    assert (parameters["device"], parameters["threads"]) == ("rknn", 3)


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_threads_that_are_no_number_are_refused(role: str, tmp_path: Path) -> None:
    with pytest.raises(RobotConfigError, match="threads:=many"):
        make_container_plan(_settings(role, tmp_path, ENGINE_THREADS="many"))


def test_an_image_with_ros_names_its_transport(tmp_path: Path) -> None:
    """And without one everything stays on the product's own."""
    for env, transport in (({}, "dds"), ({"TRANSPORT": "ros"}, "ros")):
        for role in ("device", "engine", "sim"):
            plan = make_container_plan(_settings(role, tmp_path, **env))
            assert {process.parameters["transport"] for process in plan.processes} == {transport}


def test_without_a_mount_the_robots_of_the_image_are_used() -> None:
    assert Settings("device", robots=Path("/no/such/mount")).robot_file == "so101_sim"
    assert Settings("device", robots=ROBOTS, robot="so101_sim.yaml").robot_file == str(ROBOTS / "so101_sim.yaml")
