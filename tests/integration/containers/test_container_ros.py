"""The device's image on a ROS 2 base, as far as a stand-in for the base shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from stack_rig import REPO, Stack, client, image, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]

BASE = "inference-service-test/ros-stand-in:test"


@pytest.fixture(scope="module")
def device_ros(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str], None]) -> str:
    recipe = Path(__file__).with_name("ros_stand_in.Dockerfile")
    words = [
        "docker",
        "build",
        "--network",
        "host",
        "--build-arg",
        "BASE=debian:trixie-20260824-slim",
        "--tag",
        BASE,
        "-",
    ]
    made = subprocess.run(words, stdin=recipe.open(), capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, made.stderr
    settings = {"DEVICE_IMAGE": "device-ros", "ROS_IMAGE": BASE}
    Stack(tmp_path_factory.mktemp("ros"), "isvc-ros", ["*"], settings).run("build", "device", timeout_s=1200)
    name = image("device-ros")
    added = client().images.get(name).attrs["Size"] - client().images.get(BASE).attrs["Size"]
    measured(f"device-ros: {added / 1e6:.0f} MB on top of its base")
    return name


def _run(device_ros: str, *command: str) -> str:
    output: bytes = client().containers.run(
        device_ros, command, entrypoint="with-ros", network_mode="none", read_only=True, remove=True, stderr=True
    )
    return output.decode()


def test_a_base_without_ros_is_refused(tmp_path: Path) -> None:
    """In one line that says what the base must hold."""
    settings = {"DEVICE_IMAGE": "device-ros", "ROS_IMAGE": "debian:trixie-20260824-slim"}
    done = Stack(tmp_path, "isvc-no-ros", ["*"], settings).run("build", "device", timeout_s=300, check=False)
    assert done.returncode != 0
    told = "ROS_IMAGE holds no ROS 2: device-ros wants an image with /opt/ros/DISTRIBUTION/setup.sh, rclpy and the"
    assert told in done.stdout + done.stderr


def test_ros_finds_our_packages(device_ros: str) -> None:
    """By ament's index, as `ros2 run` and `ros2 launch` look, and with the base's own interpreter."""
    index = "share/ament_index/resource_index/packages"
    script = f'for path in $(echo "$AMENT_PREFIX_PATH" | tr : " "); do ls $path/{index}; done'
    found = _run(device_ros, "sh", "-c", script).split()
    assert {"inference_service", "robot_config", "rmw_cyclonedds_cpp"} <= set(found)
    prefix = "/opt/inference-service"
    assert "use_sim_time: False" in _run(device_ros, f"{prefix}/lib/inference_service/action_dispatcher_node", "--help")
    imports = "import rclpy, ibrobot_msgs, pydantic, numpy, robot_config; print(robot_config.__file__)"
    assert f"{prefix}/python/robot_config" in _run(device_ros, "/usr/bin/python3", "-c", imports)


def test_its_nodes_go_through_rclpy_with_our_settings_of_dds(device_ros: str) -> None:
    device = client().containers.run(
        device_ros,
        detach=True,
        init=True,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        environment={"ROS_DOMAIN_ID": "7", "DDS_MAX_MESSAGE_SIZE": "1400B"},
        volumes={str(REPO / "policies/so101_act_demo"): {"bind": "/model", "mode": "ro"}},
    )
    try:
        until(lambda: b"stand-in for rclpy: <CycloneDDS" in device.logs(), f"rclpy is imported\n{device.logs()}", 60)
        assert b"<MaxMessageSize>1400B</MaxMessageSize>" in device.logs()
        assert device.attrs["Config"]["User"] == "10001:10001"
        assert device.exec_run(["inference-service", "health"]).exit_code == 1
    finally:
        device.remove(force=True)
