"""What is in the images, and what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stack_rig import REPO, client, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

_MB = 1_000_000
_TRIXIE, _BOOKWORM = "debian:trixie-20260824-slim", "debian:bookworm-20260824-slim"
# Target, base, budget in MB on top of it; None: none was set.
IMAGES = [
    ("device", _TRIXIE, 250),
    ("sim", _TRIXIE, None),
    ("engine-ascend", _BOOKWORM, 300),
    ("engine-cuda", _TRIXIE, None),
]
# What `pip install torch torchvision` brings: the second one wants numpy and pillow.
_TORCH = (
    "torch torchgen functorch torchvision torchvision.libs triton nvidia cuda sympy mpmath networkx jinja2 markupsafe "
    "fsspec filelock setuptools numpy numpy.libs PIL pillow.libs"
)


@pytest.fixture(params=IMAGES, ids=[name for name, *_ in IMAGES])
def built(request: pytest.FixtureRequest, build: Callable[[str], str]) -> tuple[str, str, int | None]:
    name, base, budget = request.param
    return build(name), base, budget


def _shell(image: str, script: str) -> str:
    output: bytes = client().containers.run(
        image, ["-c", script], entrypoint="/bin/sh", user="0", network_mode="none", remove=True
    )
    return output.decode()


def _config(image: str) -> dict[str, Any]:
    config: dict[str, Any] = client().images.get(image).attrs["Config"]
    return config


def test_who_it_runs_as_and_how_it_is_watched(built: tuple[str, str, int | None]) -> None:
    image, _, _ = built
    config = _config(image)
    assert config["User"].split(":")[0] == "10001"
    assert config["StopSignal"] == "SIGINT"
    assert config["Healthcheck"]["Test"] == ["CMD", "inference-service", "health"]
    script = "test $(id -u) = 10001 && ! touch /opt/x /etc/x /usr/x 2>/dev/null"
    client().containers.run(image, ["-c", script], entrypoint="/bin/sh", network_mode="none", remove=True)


def test_labels_and_version(built: tuple[str, str, int | None]) -> None:
    """The label's version is the package's; the commit is in both."""
    image, _, _ = built
    labels = _config(image)["Labels"]
    wanted = ("title", "description", "licenses", "version", "revision")
    assert not [key for key in wanted if not labels.get(f"org.opencontainers.image.{key}")]
    version = re.search(r'^version = "(.*)"$', (REPO / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert labels["org.opencontainers.image.version"] == version[1]
    said = client().containers.run(image, ["version"], network_mode="none", remove=True).decode().strip()
    assert said == f"{version[1]} ({labels['org.opencontainers.image.revision']})"


def test_nothing_of_the_build_machine_is_inside(built: tuple[str, str, int | None]) -> None:
    """No build secret, no certificate of the machine's own, no build tool, no cache of pip or apt."""
    image, _, _ = built
    tools = "for tool in gcc pip make; do command -v $tool; done"
    left = _shell(image, f"ls /run/secrets /root/.cache /var/lib/apt/lists/* 2>/dev/null; {tools}; true")
    assert left.split() == []
    history = json.dumps(client().images.get(image).history())
    assert "/etc/ssl" not in history
    assert "BEGIN" not in history
    for certificate in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        line = certificate.read_text().splitlines()[1]
        assert _shell(image, f"grep -rlF '{line}' /etc /opt /usr /tmp 2>/dev/null || true") == "", certificate.name


def test_the_compiled_loop_over_pictures_is_there(built: tuple[str, str, int | None]) -> None:
    """Built once, in one Debian, for the Python of each image. Without it numpy would do the same, slower."""
    image, _, _ = built
    script = "from inference_service.core.pixel_kernel import load; assert load() is not None"
    command = {"entrypoint": "/opt/venv/bin/python", "network_mode": "none", "remove": True}
    client().containers.run(image, ["-c", script], **command)


def test_size(built: tuple[str, str, int | None], measured: Callable[[str], None]) -> None:
    image, base, budget = built
    images = client().images
    added = (images.get(image).attrs["Size"] - images.get(base).attrs["Size"]) / _MB
    measured(f"{image.split('/')[-1]}: {added:.0f} MB on top of {base}")
    if budget is not None:
        assert added <= budget


def test_size_of_engine_cuda(build: Callable[[str], str], measured: Callable[[str], None]) -> None:
    """torch and its libraries, and at most 300 MB besides."""
    image = build("engine-cuda")
    images = client().images
    added = (images.get(image).attrs["Size"] - images.get(_TRIXIE).attrs["Size"]) / _MB
    torch = (
        int(
            _shell(
                image, f"cd /opt/venv/lib/python3*/site-packages && du -sc --apparent-size -B1 {_TORCH} | tail -n 1"
            ).split()[0]
        )
        / _MB
    )
    measured(f"engine-cuda: torch and its libraries {torch:.0f} MB, besides {added - torch:.0f} MB")
    assert added - torch <= 300


def test_no_torch_on_the_device(build: Callable[[str], str]) -> None:
    there = _shell(build("device"), "ls /opt/venv/lib/python3*/site-packages")
    assert not {"torch", "lerobot"} & set(there.split())


def test_dds_is_debians_own(build: Callable[[str], str]) -> None:
    """With the DDS Security plug-ins, which the wheels of PyPI lack; so on every architecture."""
    found = _shell(
        build("device"),
        "ls /usr/lib/*/libddsc0debian/libdds_security_ac.so /usr/lib/*/libddsc.so*;"
        " ls /opt/venv/lib/python3*/site-packages",
    )
    assert "libdds_security_ac.so" in found
    assert "cyclonedds.libs" not in found


def test_engine_ascend_starts_both_of_its_backends(build: Callable[[str], str]) -> None:
    """As far as a machine without NPU and converted model lets them: they name the file that they need."""
    script = "import inference_service.backends.compiled.ascend, inference_service.backends.compiled.sd3403"
    client().containers.run(
        build("engine-ascend"), ["-c", script], entrypoint="/opt/venv/bin/python", network_mode="none", remove=True
    )
    for device in ("ascend_om", "ascend_om_3403"):
        told = f"/model/config.om.json: no such file; backend '{device}' needs it"
        with _engine(build("engine-ascend"), told, 60, ENGINE="ascend", ENGINE_DEVICE=device) as engine:
            assert engine.exec_run(["inference-service", "health"]).exit_code == 1


def test_engine_cuda_computes_on_the_cpu_when_told(build: Callable[[str], str]) -> None:
    ready = "Waiting for preprocessed batches"
    with _engine(build("engine-cuda"), ready, 150, ENGINE="cuda", ENGINE_DEVICE="cpu") as engine:
        assert b"inference_backend=lerobot, tensor_device=cpu" in engine.logs()
        assert engine.exec_run(["inference-service", "health"]).exit_code == 0


@contextmanager
def _engine(image: str, told: str, patience_s: float, **environment: str) -> Iterator[Any]:
    """An engine's container with the demonstration's policy, once it has said ``told``."""
    engine = client().containers.run(
        image,
        detach=True,
        init=True,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        environment={"ROS_DOMAIN_ID": "7", **environment},
        volumes={str(REPO / "policies/so101_act_demo"): {"bind": "/model", "mode": "ro"}},
    )
    try:
        until(lambda: told.encode() in engine.logs(), f"the engine says {told!r}", patience_s)
        yield engine
    finally:
        engine.remove(force=True)
