"""Images for arm64, built and started under emulation: for whoever asks, as it takes long."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import pytest
from stack_rig import BUILD, REPO, Stack, client, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(5400)]

BASES = {"TRIXIE_IMAGE": "debian-arm64:trixie-slim", "BOOKWORM_IMAGE": "debian-arm64:bookworm-slim"}
REGISTRY = f"{BUILD['IMAGE_REGISTRY']}-arm64"


@pytest.fixture(scope="module")
def emulated() -> None:
    """Skips where nobody asks; whoever does and has no emulation is told so by a failure."""
    if os.environ.get("CONTAINERS_ARM64") != "1":
        pytest.skip("built under emulation for CONTAINERS_ARM64=1 only, as it takes long: docs/containers.md")
    status = [str(REPO / "scripts/docker-engine"), "status", "arm64"]
    done = subprocess.run(status, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{done.stderr} run scripts/docker-engine arm64"


@pytest.fixture(scope="module", params=["device", "engine-rknn"])
def built(
    emulated: None,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    measured: Callable[[str], None],
) -> str:
    name = str(request.param)
    settings = {**BASES, "IMAGE_REGISTRY": REGISTRY, "ENGINE": "cpu" if name == "device" else "rknn"}
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
        Stack(tmp_path_factory.mktemp("arm64"), "isvc-arm64", ["*"], settings).run("build", name, timeout_s=3600)
    base = BASES["TRIXIE_IMAGE" if name == "device" else "BOOKWORM_IMAGE"]
    image = f"{REGISTRY}/{name}:{BUILD['IMAGE_TAG']}"
    added = client().images.get(image).attrs["Size"] - client().images.get(base).attrs["Size"]
    measured(f"{name} for arm64: {added / 1e6:.0f} MB on top of {base}, built in {time.monotonic() - started:.0f} s")
    assert added <= (250e6 if name == "device" else 300e6)
    return image


def _python(image: str, script: str) -> str:
    command = ["docker", "run", "--rm", "--platform", "linux/arm64", "--network", "none", "--entrypoint"]
    command += ["/opt/venv/bin/python", image, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everything_imports_on_arm64(built: str) -> None:
    """Our nodes, DDS, the compiled loop and the runtime: for RK3588 Rockchip's real wheel."""
    runtime = "onnxruntime" if built.split("/")[-1].startswith("device") else "rknnlite.api"
    modules = f"platform, {runtime}, tokenizers, cyclonedds.domain, inference_service.nodes.engine_node"
    assert _python(built, f"import {modules}; print(platform.machine())") == "aarch64"
    assert _python(built, "from inference_service.core.pixel_kernel import load; print(load() is not None)") == "True"


def test_who_it_runs_as_on_arm64(built: str) -> None:
    """As the images of this machine's own architecture."""
    config = client().images.get(built).attrs["Config"]
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGINT")
    assert config["Healthcheck"]["Test"] == ["CMD", "inference-service", "health"]
    assert config["Labels"]["org.opencontainers.image.title"].endswith(built.split("/")[-1].split(":")[0])


def test_an_engine_starts_on_arm64(built: str) -> None:
    """With ONNX Runtime it becomes ready; for RK3588 it says what this machine lacks."""
    onnx = built.split("/")[-1].startswith("device")
    engine = client().containers.run(
        built,
        ["container", "engine"],
        detach=True,
        platform="linux/arm64",
        network_mode="none",
        # qemu's user mode refuses IP_MULTICAST_IF: without multicast DDS does not ask for it.
        environment={
            "ROS_DOMAIN_ID": "7",
            "DDS_MULTICAST": "false",
            "DDS_PEERS": "127.0.0.1",
            "ENGINE_DEVICE": "onnx" if onnx else "rknn",
        },
        volumes={str(REPO / "policies/so101_act_demo"): {"bind": "/model", "mode": "ro"}},
    )
    told = b"Waiting for preprocessed batches" if onnx else b"model.rknn"
    try:
        until(lambda: told in engine.logs(), f"the engine says {told!r}", 240)
        assert engine.exec_run(["inference-service", "health"]).exit_code == (0 if onnx else 1), engine.logs().decode()
    finally:
        engine.remove(force=True)
