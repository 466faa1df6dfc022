"""What is checked before a container's nodes start, and what is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from inference_service.container import checks, host
from inference_service.container.settings import Role, Settings

FINE = {"ROS_DOMAIN_ID": "7", "DDS_INTERFACE": "lo"}


def _policy(where: Path, **shapes: list[int]) -> Path:
    features = {name: {"type": "STATE", "shape": shape} for name, shape in shapes.items()}
    where.mkdir(exist_ok=True)
    (where / "config.json").write_text(json.dumps({"input_features": features}))
    return where


def _engine(model: Path) -> Settings:
    return Settings("engine", model=model)


def test_nothing_is_wrong_with_what_works(tmp_path: Path) -> None:
    assert checks.problems(_engine(_policy(tmp_path / "model")), FINE) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ROS_DOMAIN_ID": ""}, "ROS_DOMAIN_ID is not set: set it in .env"),
        ({"ROS_DOMAIN_ID": "robot"}, "ROS_DOMAIN_ID='robot': wants a whole number from 0 to 232"),
        ({"DDS_INTERFACE": "no-such-0"}, "DDS_INTERFACE='no-such-0'"),
    ],
)
def test_the_network_is_checked(tmp_path: Path, changed: dict[str, str], told: str) -> None:
    (said,) = checks.problems(_engine(_policy(tmp_path / "model")), FINE | changed)
    assert said.startswith(told)


@pytest.mark.parametrize(
    ("role", "policy", "told"),
    [
        ("engine", "engine://", "only a device has its policy from an engine"),
        ("monolithic", "engine://", "only a device has its policy from an engine"),
        ("device", "engine://FEED", "set POLICY_FINGERPRINT in .env"),
        ("device", "/srv/policy", "wants engine:// or engine://FINGERPRINT"),
    ],
)
def test_where_the_policy_comes_from_is_checked(tmp_path: Path, role: Role, policy: str, told: str) -> None:
    (said,) = checks.problems(Settings(role, policy=policy, robots=tmp_path / "none"), FINE)
    assert told in said


def test_a_device_whose_engine_has_the_policy_needs_no_mount(tmp_path: Path) -> None:
    settings = Settings("device", policy="engine://", model=tmp_path / "nowhere", robots=tmp_path / "none")
    assert checks.problems(settings, FINE) == []
    assert checks.largest_message(settings) == 640 * 480 * 3


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    assert len(checks.problems(_engine(tmp_path / "nowhere"), {})) == 2


@pytest.mark.parametrize(
    ("files", "told"),
    [([], "is empty: set MODEL_DIR in .env"), (["model.onnx"], "holds no config.json: set MODEL_DIR in .env")],
)
def test_the_model_directory_is_checked(tmp_path: Path, files: list[str], told: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    (said,) = checks.problems(_engine(tmp_path), FINE)
    assert told in said


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_model_that_the_container_may_not_read(tmp_path: Path) -> None:
    model = _policy(tmp_path / "model")
    (model / "config.json").chmod(0)
    (said,) = checks.problems(_engine(model), FINE)
    assert "config.json cannot be read by uid" in said
    assert "chmod -R a+rX" in said


def test_a_robot_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    robots = tmp_path / "robots"
    robots.mkdir()
    (robots / "mine.yaml").touch()
    (said,) = checks.problems(Settings("sim", robot="yours", robots=robots), FINE)
    assert said.startswith(f"ROBOT_CONFIG=yours: no such file in {robots} (it has mine)")


def test_the_largest_message_is_the_policys_batch(tmp_path: Path) -> None:
    """Images as bytes, the state as 4-byte numbers."""
    model = _policy(tmp_path / "model", top=[3, 1000, 1000], state=[6])
    assert checks.largest_message(_engine(model)) == 3_000_000 + 24
    small = _policy(tmp_path / "small", state=[6])
    assert checks.largest_message(_engine(small)) == 24
    assert checks.largest_message(Settings("device", model=small)) == 640 * 480 * 3, "the robot's raw pictures"


def test_small_buffers_are_told_with_the_line_to_paste(tmp_path: Path) -> None:
    rmem_max = tmp_path / "rmem_max"
    settings = _engine(_policy(tmp_path / "model", top=[3, 1000, 1000]))
    rmem_max.write_text("212992\n")
    said = checks._buffer_warning(settings, rmem_max)
    assert "net.core.rmem_max is 212992 bytes" in said
    assert said.endswith("sudo sysctl -w net.core.rmem_max=33554432 net.core.wmem_max=33554432")
    rmem_max.write_text("33554432\n")
    assert checks._buffer_warning(settings, rmem_max) == ""
    assert checks._buffer_warning(settings, tmp_path / "hidden") == ""


def _tree(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("rockchip,rk3588-evb\0rockchip,rk3588")
    return root


COMPATIBLE = "sys/firmware/devicetree/base/compatible"


@pytest.mark.parametrize(
    ("engine", "env", "files"),
    [
        ("cpu", {}, []),
        ("cuda", {}, ["dev/nvidia0"]),
        ("cuda", {}, ["dev/dxg"]),
        ("ascend", {}, [f"dev/{name}" for name in host.ASCEND_BOARDS["310p"]]),
        (
            "ascend",
            {"ASCEND_DEVICE": "/dev/davinci1"},
            ["dev/davinci1", "dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc"],
        ),
        ("ascend", {"ASCEND_BOARD": "310b"}, [f"dev/{name}" for name in host.ASCEND_BOARDS["310b"]]),
        ("ascend", {"ASCEND_BOARD": "sd3403"}, ["dev/svp_npu", "dev/mmz_userdev"]),
        ("rknn", {}, ["dev/dri/renderD129", COMPATIBLE]),
    ],
)
def test_a_host_with_its_accelerator(tmp_path: Path, engine: str, env: dict[str, str], files: list[str]) -> None:
    assert host.missing(engine, env, _tree(tmp_path, *files)) == []


@pytest.mark.parametrize(("board", "devices"), host.ASCEND_BOARDS.items())
def test_each_device_of_an_ascend_board_is_asked_for(tmp_path: Path, board: str, devices: tuple[str, ...]) -> None:
    for absent in devices:
        root = _tree(tmp_path / absent, *(f"dev/{name}" for name in devices if name != absent))
        (said,) = host.missing("ascend", {"ASCEND_BOARD": board}, root)
        assert said.startswith(f"ENGINE=ascend: /dev/{absent} not on this host")
        assert "set ASCEND_BOARD in .env" in said


@pytest.mark.parametrize(
    ("engine", "files", "told"),
    [
        ("cuda", [], "ENGINE=cuda: no NVIDIA GPU on this host"),
        ("cuda", ["dev/nvhost-gpu"], "ENGINE=cuda: this is a Jetson, and the image engine-cuda is for PCs and servers"),
        ("ascend", ["dev/davinci0"], "ENGINE=ascend: /dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc not on"),
        ("rknn", [COMPATIBLE], "ENGINE=rknn: /dev/dri not on this host"),
        ("rknn", [COMPATIBLE, "dev/dri/renderD128"], "ENGINE=rknn: /dev/dri/renderD129, the NPU, not on this host"),
        ("rknn", ["dev/dri/renderD129"], "ENGINE=rknn: /proc/device-tree/compatible names no rockchip,rk35"),
        ("tpu", [], "ENGINE=tpu: wants one of cpu, cuda, ascend, rknn; set it in .env"),
    ],
)
def test_a_host_without(tmp_path: Path, engine: str, files: list[str], told: str) -> None:
    (said,) = host.missing(engine, {}, _tree(tmp_path, *files))
    assert said.startswith(told)


def test_an_ascend_board_nobody_knows(tmp_path: Path) -> None:
    (said,) = host.missing("ascend", {"ASCEND_BOARD": "910x"}, _tree(tmp_path))
    assert said == "ENGINE=ascend: ASCEND_BOARD=910x: wants one of 310p, 310b, sd3403; set it in .env"
