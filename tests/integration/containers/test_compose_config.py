"""Every profile with every accelerator is a valid compose file, with what the vendors' documentation asks for."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stack_rig import REPO, Stack

pytestmark = pytest.mark.containers

PROFILES = ("monolithic", "distributed", "cloud_local", "engine")
ENGINES = ("cpu", "cuda", "ascend", "rknn")
ROLES = {
    "monolithic": {"monolithic", "host-check", "sim"},
    "distributed": {"device", "sim"},
    "cloud_local": {"device", "engine", "host-check", "sim"},
    "engine": {"engine", "host-check"},
}
IMAGES = {"cpu": "device", "cuda": "engine-cuda", "ascend": "engine-ascend", "rknn": "engine-rknn"}


def _services(where: Path, profiles: list[str], **settings: str) -> dict[str, Any]:
    stack = Stack(where, "isvc-config", profiles, {"ROS_DOMAIN_ID": "7", **settings})
    services: dict[str, Any] = json.loads(stack.run("config", "--format", "json").stdout)["services"]
    return services


def _devices(service: dict[str, Any]) -> set[str]:
    return {device["source"] for device in service.get("devices", [])}


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    """Host paths by their place in the container; all must be read-only and never made by Docker."""
    for volume in service["volumes"]:
        assert volume["type"] == "bind" and volume["read_only"], volume
        assert not volume.get("bind", {}).get("create_host_path"), volume
    return {volume["target"]: volume["source"] for volume in service["volumes"]}


@pytest.mark.parametrize(("profile", "engine"), list(itertools.product(PROFILES, ENGINES)))
def test_every_combination(tmp_path: Path, profile: str, engine: str) -> None:
    services = _services(tmp_path, [profile], ENGINE=engine)
    assert set(services) == ROLES[profile]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] and service["init"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert int(service["mem_limit"]) > 0 and service["pids_limit"] > 0, name
        assert service["logging"]["options"] == {"max-file": "3", "max-size": "10m"}, name
        assert service["image"].split(":")[-1] != "latest", name
        if name == "host-check":
            continue
        assert service["network_mode"] == "host", name
        assert service["environment"]["ROS_DOMAIN_ID"] == "7", name
        assert service["restart"] == "unless-stopped", name
        if name != "sim":
            assert _mounts(service)["/model"] == str(REPO / "policies/so101_act_demo")
        if name != "engine":
            assert _mounts(service)["/robot_config"] == str(REPO / "robot_config/robots")
    for name in {"engine", "monolithic", "host-check"} & set(services):
        assert f"/{IMAGES[engine]}:" in services[name]["image"]
        assert services[name]["environment"]["ENGINE"] == engine
    if "device" in services:
        assert services["device"]["depends_on"]["engine"] == {"condition": "service_healthy", "required": False}
    if "engine" in services:
        assert services["engine"]["depends_on"]["host-check"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_simulated_robot_is_added_by_use_sim_or_by_its_profile(tmp_path: Path, profile: str) -> None:
    assert "sim" not in _services(tmp_path, [profile], USE_SIM="0")
    assert "sim" in _services(tmp_path, [profile, "sim"], USE_SIM="0")


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_cuda_reserves_a_gpu(tmp_path: Path, role: str) -> None:
    service = _services(tmp_path, [role], ENGINE="cuda")[role]
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"capabilities": ["gpu"], "driver": "nvidia", "count": 1}
    ]
    assert service["environment"]["ENGINE_DEVICE"] == "cuda"


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_rknn_has_the_npu_and_sees_the_device_tree(tmp_path: Path, role: str) -> None:
    service = _services(tmp_path, [role], ENGINE="rknn", RENDER_GID="109")[role]
    assert "/dev/dri" in _devices(service)
    assert {"systempaths=unconfined", "apparmor=unconfined"} <= set(service["security_opt"])
    assert {"video", "109"} <= set(service["group_add"])
    assert _mounts(service)["/usr/lib/librknnrt.so"] == "/usr/lib/librknnrt.so"


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_ascend_cards(tmp_path: Path, role: str) -> None:
    service = _services(tmp_path, [role], ENGINE="ascend", ASCEND_DEVICE="/dev/davinci1")[role]
    assert _devices(service) == {"/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"}
    assert {
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info",
        "/etc/ascend_install.info",
        "/usr/local/Ascend/ascend-toolkit",
    } <= set(_mounts(service))
    assert "1000" in service["group_add"]


def test_ascend_310b_has_other_devices(tmp_path: Path) -> None:
    service = _services(tmp_path, ["engine"], ENGINE="ascend", ASCEND_BOARD="310b")["engine"]
    assert {"/dev/davinci0", "/dev/davinci_manager", "/dev/svm0", "/dev/ts_aisle"} <= _devices(service)
    assert not {"/dev/devmm_svm", "/dev/hisi_hdc"} & _devices(service)
    assert _mounts(service)["/usr/lib64/libcrypto.so.1.1"] == "/usr/lib/aarch64-linux-gnu/libcrypto.so.1.1"
    openeuler = _services(tmp_path, ["engine"], ENGINE="ascend", ASCEND_BOARD="310b", ASCEND_SYSTEM_LIBS="/usr/lib64")[
        "engine"
    ]
    assert _mounts(openeuler)["/usr/lib64/libcrypto.so.1.1"] == "/usr/lib64/libcrypto.so.1.1"


def test_cann_may_come_with_the_image(tmp_path: Path) -> None:
    service = _services(tmp_path, ["engine"], ENGINE="ascend", CANN="image")["engine"]
    assert "/usr/local/Ascend/ascend-toolkit" not in _mounts(service)


def test_a_robot_with_ros_takes_its_own_device_image(tmp_path: Path) -> None:
    device = _services(tmp_path, ["distributed"], DEVICE_IMAGE="device-ros", ROS_IMAGE="ros:humble-ros-base")["device"]
    assert "/device-ros:" in device["image"]
    assert device["build"]["target"] == "device-ros"
    assert device["build"]["args"]["ROS_IMAGE"] == "ros:humble-ros-base"


def test_bake_builds_each_image_for_its_platforms(tmp_path: Path) -> None:
    """Every target that compose knows, and those alone, under the same names."""
    command = ["docker", "buildx", "bake", "--file", "docker/docker-bake.hcl", "--print"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=True)
    targets: dict[str, Any] = json.loads(done.stdout)["target"]
    arm, both = ["linux/arm64"], ["linux/amd64", "linux/arm64"]
    assert {name: target["platforms"] for name, target in targets.items()} == {
        "device": both,
        "device-ros": both,
        "sim": both,
        "engine-cuda": ["linux/amd64"],
        "engine-ascend": both,
        "engine-rknn": arm,
    }
    for engine in ENGINES:
        service = _services(tmp_path, ["cloud_local"], ENGINE=engine, IMAGE_REGISTRY="inference-service", IMAGE_TAG="1")
        target = service["engine"]["build"]["target"]
        assert targets[target]["target"] == target
        assert targets[target]["tags"][0].split(":")[0] == service["engine"]["image"].split(":")[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_board_pulls_its_own_image_and_no_other(tmp_path: Path, engine: str) -> None:
    """By the accelerator's name, whatever ENGINE says; the registry is named, so it is asked for exactly one image."""
    stack = Stack(tmp_path, "isvc-pull", [], {"IMAGE_REGISTRY": "registry.invalid/robots", "IMAGE_TAG": "1.2.3"})
    said = stack.run("pull", f"engine-{engine}", check=False).stderr
    assert f"engine-{engine} " in said
    assert "registry.invalid" in said
    others = {f"engine-{other} " for other in ENGINES} - {f"engine-{engine} "}
    assert not [name for name in (*others, "device ", "sim ") if name in said]
