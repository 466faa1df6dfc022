"""Every profile with every accelerator is a valid compose file, with what the vendors' documentation asks for."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stack_rig import REPO, Stack

from inference_service.container.host import ASCEND_BOARDS

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


def _config(where: Path, profiles: list[str], **settings: str) -> dict[str, Any]:
    stack = Stack(where, "isvc-config", profiles, {"ROS_DOMAIN_ID": "7", **settings})
    config: dict[str, Any] = json.loads(stack.run("config", "--format", "json").stdout)
    return config


def _services(where: Path, profiles: list[str], **settings: str) -> dict[str, Any]:
    services: dict[str, Any] = _config(where, profiles, **settings)["services"]
    return services


def _devices(service: dict[str, Any]) -> set[str]:
    return {device["source"] for device in service.get("devices", [])}


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    """Host paths by their place in the container; all must be read-only and never made by Docker."""
    binds = [volume for volume in service["volumes"] if volume["target"] != "/dev/shm"]
    for volume in binds:
        assert volume["type"] == "bind" and volume["read_only"], volume
        assert not volume.get("bind", {}).get("create_host_path"), volume
    return {volume["target"]: volume["source"] for volume in binds}


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
        assert service["stop_grace_period"] == "15s", name
        assert [mount for mount in service["tmpfs"] if mount.startswith("/tmp:mode=1777,size=")], name
        if name in ("device", "engine", "monolithic"):
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


def test_a_device_may_have_its_policy_from_the_engine(tmp_path: Path) -> None:
    """Then it has no policy mounted; its engine has, as ever."""
    settings = {"POLICY_FROM": "engine", "POLICY_FINGERPRINT": "feed", "MODEL_DIR": "/nowhere/at/all"}
    services = _services(tmp_path, ["cloud_local"], **settings)
    assert set(_mounts(services["device"])) == {"/robot_config"}
    assert services["device"]["environment"]["POLICY"] == "engine://feed"
    assert _mounts(services["engine"])["/model"] == "/nowhere/at/all"
    assert "POLICY" not in services["engine"]["environment"]


def test_device_and_engine_of_one_project_share_memory_and_nothing_else(tmp_path: Path) -> None:
    """A volume of the project's own, for the nodes' user alone; neither has the host's."""
    config = _config(tmp_path, ["cloud_local", "monolithic"])
    sharing = {
        name: volume["source"]
        for name, service in config["services"].items()
        for volume in service["volumes"]
        if volume["target"] == "/dev/shm"
    }
    assert sharing == {"device": "shared_memory", "engine": "shared_memory"}
    assert not [name for name, service in config["services"].items() if "ipc" in service]
    volume = config["volumes"]["shared_memory"]
    assert volume["name"] == "isvc-config_shared_memory"
    assert {"mode=0700", "uid=10001", "nosuid", "nodev", "noexec"} <= set(volume["driver_opts"]["o"].split(","))


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
    assert _devices(service) == {"/dev/dri", "/dev/dma_heap"}
    assert {"systempaths=unconfined", "apparmor=unconfined"} <= set(service["security_opt"])
    assert {"video", "109"} <= set(service["group_add"])
    assert _mounts(service)["/usr/lib/librknnrt.so"] == "/usr/lib/librknnrt.so"


def _besides(service: dict[str, Any]) -> dict[str, str]:
    """Mounts that the accelerator asks for, beyond policy and robots."""
    return {target: source for target, source in _mounts(service).items() if target not in ("/model", "/robot_config")}


@pytest.mark.parametrize("role", ["engine", "monolithic"])
def test_ascend_cards(tmp_path: Path, role: str) -> None:
    services = _services(tmp_path, [role], ENGINE="ascend", ASCEND_DEVICE="/dev/davinci1")
    service = services[role]
    assert _devices(service) == {"/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"}
    mounts = (
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info",
        "/etc/ascend_install.info",
        "/usr/local/Ascend/ascend-toolkit",
    )
    assert _besides(service) == {mount: mount for mount in mounts}
    assert "1000" in service["group_add"]
    assert services["host-check"]["environment"]["ASCEND_DEVICE"] == "/dev/davinci1"


DEVICES_310B = {
    *("/dev/davinci0", "/dev/davinci_manager", "/dev/svm0", "/dev/ts_aisle", "/dev/upgrade", "/dev/sys", "/dev/vdec"),
    *("/dev/vpc", "/dev/pngd", "/dev/venc", "/dev/dvpp_cmdlist", "/dev/log_drv"),
}
LIBRARIES_310B = [
    "libaicpu_processer.so",
    "libaicpu_prof.so",
    "libaicpu_sharder.so",
    "libadump.so",
    "libtsd_eventclient.so",
    "libaicpu_scheduler.so",
    "libdcmi.so",
    "libmpi_dvpp_adapter.so",
    "libstackcore.so",
]
FILES_310B = [
    "/etc/sys_version.conf",
    "/etc/hdcBasic.cfg",
    "/usr/local/sbin/npu-smi",
    "/usr/local/Ascend/driver/lib64",
    "/usr/lib64/aicpu_kernels",
    "/var/slogd",
    "/var/dmp_daemon",
    "/usr/local/Ascend/ascend-toolkit",
]


@pytest.mark.parametrize("system", ["/usr/lib/aarch64-linux-gnu", "/usr/lib64"], ids=["Ubuntu", "openEuler"])
def test_ascend_310b_has_other_devices(tmp_path: Path, system: str) -> None:
    settings = {"ASCEND_BOARD": "310b", "ASCEND_SYSTEM_LIBS": "" if "aarch64" in system else system}
    services = _services(tmp_path, ["engine"], ENGINE="ascend", **settings)
    assert _devices(services["engine"]) == DEVICES_310B
    same = {path: path for path in (*FILES_310B, *(f"/usr/lib64/{name}" for name in LIBRARIES_310B))}
    distribution = {f"/usr/lib64/{name}": f"{system}/{name}" for name in ("libcrypto.so.1.1", "libyaml-0.so.2")}
    assert _besides(services["engine"]) == same | distribution
    assert services["host-check"]["environment"]["ASCEND_BOARD"] == "310b"


def test_sd3403_has_its_own_npu_and_no_cann(tmp_path: Path) -> None:
    settings = {
        "ASCEND_BOARD": "sd3403",
        "CANN": "none",
        "ENGINE_DEVICE": "ascend_om_3403",
        "SVP_LIBRARIES": "/opt/svp",
    }
    service = _services(tmp_path, ["engine"], ENGINE="ascend", **settings)["engine"]
    assert _devices(service) == {"/dev/svp_npu", "/dev/mmz_userdev"}
    assert _besides(service) == {"/usr/local/Ascend/driver/lib64": "/opt/svp"}
    assert service["environment"]["ENGINE_DEVICE"] == "ascend_om_3403"


@pytest.mark.parametrize("board", ASCEND_BOARDS)
def test_the_host_check_asks_for_the_devices_that_the_engine_takes(tmp_path: Path, board: str) -> None:
    service = _services(tmp_path, ["engine"], ENGINE="ascend", ASCEND_BOARD=board, CANN="none")["engine"]
    assert _devices(service) == {f"/dev/{name}" for name in ASCEND_BOARDS[board]}


def test_cann_may_come_with_the_image(tmp_path: Path) -> None:
    service = _services(tmp_path, ["engine"], ENGINE="ascend", CANN="image")["engine"]
    assert "/usr/local/Ascend/ascend-toolkit" not in _mounts(service)


def test_a_robot_with_ros_takes_its_own_device_image(tmp_path: Path) -> None:
    device = _services(tmp_path, ["distributed"], DEVICE_IMAGE="device-ros", ROS_IMAGE="ros:humble-ros-base")["device"]
    assert "/device-ros:" in device["image"]
    assert device["build"]["target"] == "device-ros"
    assert device["build"]["args"]["ROS_IMAGE"] == "ros:humble-ros-base"


def _bake(**settings: str) -> dict[str, Any]:
    """Targets that ``docker buildx bake`` would build for these environment variables."""
    command = ["docker", "buildx", "bake", "--file", "docker/docker-bake.hcl", "--print"]
    env = {**os.environ, **settings}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=True)
    targets: dict[str, Any] = json.loads(done.stdout)["target"]
    return targets


def test_bake_builds_each_image_for_its_platforms() -> None:
    """By default every image there is: each a stage of the Dockerfile, under its own name."""
    arm, both = ["linux/arm64"], ["linux/amd64", "linux/arm64"]
    targets = _bake()
    assert {name: target["platforms"] for name, target in targets.items()} == {
        "device": both,
        "device-ros": both,
        "sim": both,
        "engine-cuda": ["linux/amd64"],
        "engine-ascend": both,
        "engine-rknn": arm,
    }
    for name, target in targets.items():
        assert target["target"] == name
        assert target["tags"] == [f"localhost/inference-service/{name}:0.1.0"]
        assert target["context"] == "."
        assert re.search(rf"^FROM .* AS {name}$", (REPO / target["dockerfile"]).read_text(), re.M)


def test_bake_and_compose_build_the_same(tmp_path: Path) -> None:
    """Stage, name and arguments, whatever the settings; the secret with the proxy's certificates too."""
    settings = {
        "IMAGE_REGISTRY": "registry.invalid/robots",
        "IMAGE_TAG": "1.2.3",
        "TRIXIE_IMAGE": "a/debian@sha256:1",
        "BOOKWORM_IMAGE": "a/debian@sha256:2",
        "ROS_IMAGE": "a/ros:humble",
        "CANN_IMAGE": "a/cann:8.5",
        "VERSION_COMMIT": "abc",
        "BUILD_CA": "/etc/hostname",
    }
    baked = _bake(**settings)
    built = [_services(tmp_path, ["cloud_local"], ENGINE=engine, **settings) for engine in ENGINES]
    built.append(_services(tmp_path, ["distributed"], DEVICE_IMAGE="device-ros", **settings))
    services = [service for services in built for service in services.values()]
    assert {service["build"]["target"] for service in services} == set(baked)
    for service in services:
        target = baked[service["build"]["target"]]
        assert target["tags"] == [service["image"]]
        # compose gives the device's image the argument of its other base too, which changes nothing there
        assert target["args"].items() <= service["build"]["args"].items()
        assert target["secret"] == ["id=ca,src=/etc/hostname"]
    assert baked["device-ros"]["args"]["ROS_IMAGE"] == "a/ros:humble"
    assert baked["engine-ascend"]["args"]["CANN_IMAGE"] == "a/cann:8.5"
    assert {target["args"]["BOOKWORM_IMAGE"] for target in baked.values()} == {"a/debian@sha256:2"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_board_pulls_its_own_image_and_no_other(tmp_path: Path, engine: str) -> None:
    """By the accelerator's name, whatever ENGINE says; the registry is named, so it is asked for exactly one image."""
    stack = Stack(tmp_path, "isvc-pull", [], {"IMAGE_REGISTRY": "registry.invalid/robots", "IMAGE_TAG": "1.2.3"})
    said = stack.run("pull", f"engine-{engine}", check=False).stderr
    assert f"engine-{engine} " in said
    assert "registry.invalid" in said
    others = {f"engine-{other} " for other in ENGINES} - {f"engine-{engine} "}
    assert not [name for name in (*others, "device ", "sim ") if name in said]
