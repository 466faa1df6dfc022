"""What is wrong is said in one line that names variable or mount and the fix, and nothing loops."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stack_rig import REPO, Stack, client, image, stack, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(200)]


def _refusal(where: Path, **settings: str) -> str:
    done = Stack(where, "isvc-bad", ["cloud_local"], settings).run("up", "--detach", check=False)
    assert done.returncode != 0
    return done.stderr.strip()


def test_no_env_file(tmp_path: Path) -> None:
    command = ["docker", "compose", "--env-file", "/dev/null", "--profile", "cloud_local", "up"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert re.search(r"required variable (ENGINE|ROS_DOMAIN_ID) is missing a value: set it in \.env", done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ROS_DOMAIN_ID": ""}, "ROS_DOMAIN_ID is missing a value: set it in .env to a number from 0 to 101"),
        ({"ENGINE": ""}, "ENGINE is missing a value: set it in .env to cpu, cuda, ascend or rknn"),
        ({"ENGINE": "tpu"}, "/ENGINE=tpu.yaml: no such file"),
        ({"USE_SIM": "yes"}, "/USE_SIM=yes.yaml: no such file"),
        ({"POLICY_FROM": "disk"}, 'service "device-with-policy-from-disk" not found'),
        ({"ENGINE": "ascend", "ASCEND_BOARD": "910x"}, "/ASCEND_BOARD=910x.yaml: no such file"),
    ],
)
def test_compose_refuses_to_start(tmp_path: Path, settings: dict[str, str], told: str) -> None:
    said = _refusal(tmp_path, **settings)
    assert told in said
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("images")
def test_a_policy_directory_that_is_not_there(tmp_path: Path) -> None:
    with stack(tmp_path, "isvc-nomodel", ["distributed"], USE_SIM="0", MODEL_DIR=str(tmp_path / "nowhere")) as one:
        said = one.run("up", "--detach", check=False).stderr
        assert f"bind source path does not exist: {tmp_path}/nowhere" in said
        assert not (tmp_path / "nowhere").exists(), "Docker made a directory on the host"


@contextmanager
def _container(role: str, mounts: dict[str, str], **environment: str) -> Iterator[Any]:
    """One container as compose would start it, with a health check that answers soon."""
    second = 1_000_000_000
    made = client().containers.run(
        image("device"),
        ["container", role],
        detach=True,
        init=True,
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        network_mode="none",
        restart_policy={"Name": "unless-stopped"},
        environment={"ROS_DOMAIN_ID": "7", "DDS_INTERFACE": "lo", **environment},
        volumes={host: {"bind": target, "mode": "ro"} for target, host in mounts.items()},
        healthcheck={
            "test": ["CMD", "inference-service", "health"],
            "interval": second,
            "timeout": 5 * second,
            "start_period": second,
            "retries": 2,
        },
    )
    try:
        yield made
    finally:
        made.remove(force=True)


MODEL = {"/model": str(REPO / "policies/so101_act_demo")}
ROBOTS = {"/robot_config": str(REPO / "robot_config/robots")}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("role", "mounts", "environment", "told"),
    [
        ("engine", {}, {}, "/model is not mounted: set MODEL_DIR in .env"),
        ("engine", {"/model": "EMPTY"}, {}, "/model is empty: set MODEL_DIR in .env"),
        ("device", MODEL, {"ROS_DOMAIN_ID": ""}, "ROS_DOMAIN_ID is not set: set it in .env"),
        (
            "device",
            MODEL,
            {"DDS_INTERFACE": "eth7"},
            "DDS_INTERFACE='eth7': this machine has no such network interface",
        ),
        ("device", MODEL, {"DDS_MULTICAST": "false"}, "DDS_MULTICAST=false but DDS_PEERS is empty"),
        ("device", MODEL | ROBOTS, {"ROBOT_CONFIG": "so100"}, "ROBOT_CONFIG=so100: no such file in /robot_config"),
        ("device", MODEL, {"CONTROL_MODE": "dance"}, "no control mode 'dance'"),
        ("device", {}, {"POLICY": "engine://FEED"}, "set POLICY_FINGERPRINT in .env"),
        ("sim", {"/robot_config": "EMPTY"}, {}, "set ROBOT_CONFIG, or ROBOT_CONFIG_DIR, in .env"),
    ],
)
def test_a_configuration_that_cannot_work(
    empty: Path, role: str, mounts: dict[str, str], environment: dict[str, str], told: str
) -> None:
    """Said once; unhealthy, so that what depends on it does not start; one start, no loop; 2 when stopped."""
    mounts = {target: str(empty) if host == "EMPTY" else host for target, host in mounts.items()}
    with _container(role, mounts, **environment) as broken:
        until(lambda: _health(broken) == "unhealthy", f"unhealthy; {broken.logs().decode()}", 30)
        log = broken.logs().decode()
        assert log.count(told) == 1, log
        assert broken.attrs["RestartCount"] == 0
        assert told in broken.attrs["State"]["Health"]["Log"][-1]["Output"]
        broken.stop()
        broken.reload()
        assert broken.attrs["State"]["ExitCode"] == 2


def _health(container: Any) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


@pytest.mark.usefixtures("images")
def test_a_policy_that_arrives_later_is_taken(empty: Path) -> None:
    """No restart is needed when what was missing appears."""
    with _container("engine", {"/model": str(empty)}) as waiting:
        until(lambda: b"/model is empty" in waiting.logs(), "the directory is found empty", 30)
        for source in Path(MODEL["/model"]).iterdir():
            (empty / source.name).write_bytes(source.read_bytes())
        until(lambda: _health(waiting) == "healthy", f"healthy; {waiting.logs().decode()}", 60)


ACCELERATORS = [
    ("cuda", "nvidia0", "ENGINE=cuda: no NVIDIA GPU on this host"),
    ("ascend", "davinci0", "ENGINE=ascend: /dev/davinci0"),
    ("rknn", "dri/renderD129", "ENGINE=rknn: /dev/dri"),
]


@contextmanager
def _stack_without(where: Path, engine: str, device: str, **settings: str) -> Iterator[Stack]:
    """A stack for an accelerator that is not here; the image's name is all that this host needs of it."""
    if Path("/dev", device).exists():
        pytest.skip(f"this host has /dev/{device}")
    registry = f"isvc-no-{engine}"
    client().images.get(image("device")).tag(f"{registry}/engine-{engine}", "test")
    try:
        with stack(where, registry, ["engine"], ENGINE=engine, IMAGE_REGISTRY=registry, **settings) as one:
            yield one
    finally:
        client().images.remove(f"{registry}/engine-{engine}:test", force=False)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("engine", "device", "told"), ACCELERATORS)
def test_the_host_check_alone_says_what_is_missing(tmp_path: Path, engine: str, device: str, told: str) -> None:
    with _stack_without(tmp_path, engine, device) as one:
        done = one.run("run", "--rm", "host-check", check=False)
        assert done.returncode == 2
        assert told in done.stdout
        assert "or set ENGINE=cpu in .env" in done.stdout


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("engine", "device", "told"), [ACCELERATORS[0], ACCELERATORS[2]])
def test_up_ends_with_the_host_check(tmp_path: Path, engine: str, device: str, told: str) -> None:
    """Before Docker looks for a device or a driver."""
    library = str(REPO / "LICENSE")  # any file: without one Docker names the missing mount, and nothing starts
    with _stack_without(tmp_path, engine, device, RKNN_LIBRARY=library) as one:
        done = one.run("up", "--detach", check=False)
        assert done.returncode != 0
        assert 'service "host-check" didn\'t complete successfully: exit 2' in done.stderr
        assert told in one.logs("host-check")


@pytest.mark.usefixtures("images")
def test_a_vendor_library_that_is_not_there(tmp_path: Path) -> None:
    with _stack_without(tmp_path, "rknn", "dri/renderD129", RKNN_LIBRARY="/nowhere/librknnrt.so") as one:
        assert "bind source path does not exist: /nowhere/librknnrt.so" in one.run("up", "-d", check=False).stderr
