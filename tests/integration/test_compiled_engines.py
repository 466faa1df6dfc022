"""Engines on the boards' runtimes as processes of their own, asked over DDS; the runtimes are the stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends.onnx import load as load_onnx
from inference_service.core.batch import AffineImage, Batch
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder
from inference_service.wire.envelope import Reply, encode_request
from tests.nodes.engine_rig import Asking, ready, request
from tests.nodes.harness import POLICY, ROOT, wait_until
from tests.simulators import acl_rig
from tests.simulators.acl_rig import AclSimulator
from tests.simulators.rknnlite.rig import LIBRARY, RKNNSimulator
from tests.simulators.sd3403.rig import SD3403Simulator, install

pytest.importorskip("onnxruntime")

Simulator = AclSimulator | RKNNSimulator | SD3403Simulator
Start = Callable[[Path, str, Simulator], subprocess.Popen[bytes]]
DEVICES = ("ascend_om", "ascend_om_3403", "rknn")


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


@pytest.fixture
def start(domain_id: int, tmp_path: Path) -> Iterator[Start]:
    """``start(policy, device, simulator)``: an engine process, ended with SIGINT at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(policy: Path, device: str, simulator: Simulator) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(acl_rig.LIBRARY), str(LIBRARY)])
        environment = os.environ | {"PYTHONPATH": paths, "RKNN_SIM": str(simulator.directory)}
        if isinstance(simulator, AclSimulator):
            environment |= simulator.environment
        command = [sys.executable, "-m", "inference_service.cli", "run", "pure_inference_node"]
        with (tmp_path / "engine.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*command, f"policy_path:={policy}", f"device:={device}"],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    yield start_one
    for process in started:
        process.send_signal(signal.SIGINT)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise


def make_policy(path: Path, device: str, directory: Path) -> tuple[Path, Simulator]:
    """The demo policy as an artifact of ``device``, and the simulator that runs it."""
    shutil.copytree(POLICY, path, ignore=shutil.ignore_patterns("model.*"))
    if device == "ascend_om":
        acl_rig.install(path, POLICY / "model.onnx")
        return path, AclSimulator(directory / "acl")
    if device == "rknn":
        (path / "model.rknn").symlink_to(POLICY / "model.onnx")
        return path, RKNNSimulator(directory / "rknn")
    simulator = SD3403Simulator(directory / "sd3403")
    install(path, simulator, POLICY / "model.onnx", backend_config={"request_timeout_s": 20})
    return path, simulator


def set_fault(simulator: Simulator, request: int, hang: bool) -> None:
    """From the next start on: the first answers are those to loading and warming up, then come requests."""
    if isinstance(simulator, AclSimulator):
        simulator.faults = f"mdl.execute:{request + 1}={'hang' if hang else 507015}"
    elif isinstance(simulator, RKNNSimulator):
        simulator.set(faults={"inference": {str(request + 2): "hang" if hang else "none"}})
    else:
        simulator.set(faults={str(request + 2): "hang" if hang else "die"})


def forget_faults(simulator: Simulator) -> None:
    if isinstance(simulator, AclSimulator):
        simulator.faults = ""
    else:
        simulator.set()


def random_batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    cameras = {
        f"observation.images.{name}": AffineImage(rng.integers(0, 256, (96, 128, 3), np.uint8))
        for name in ("top", "wrist")
    }
    return {"observation.state": rng.standard_normal((1, 6)).astype(np.float32), **cameras}


def reference(batch: Batch) -> Any:
    policy = load_onnx(PolicyFolder.load(POLICY), BackendOptions(threads=1))
    try:
        return policy.predict_action_chunk(batch)
    finally:
        policy.close()


def is_right(reply: Reply, batch: Batch) -> None:
    assert reply.status == "ok" and reply.action is not None, reply.message
    expected = reference(batch)
    assert np.abs(reply.action - expected).max() <= 1e-5 * np.abs(expected).max()


COMPLAINTS = {"ascend_om": "507015", "rknn": "no outputs", "ascend_om_3403": "was killed by SIGKILL"}


@pytest.mark.parametrize("device", DEVICES)
def test_a_board_answers_as_the_reference_does_and_outlives_a_failed_inference(
    device: str, tmp_path: Path, asking: Asking, start: Start
) -> None:
    """Fault: the runtime fails at one inference. Expected: a typed error for it, the next one is answered."""
    path, simulator = make_policy(tmp_path / "policy", device, tmp_path)
    set_fault(simulator, request=2, hang=False)
    engine = start(path, device, simulator)
    ready(asking)
    assert asking.cards[-1].backend_type == device
    first, failed, third = (asking.ask(request(n, batch=random_batch(n), deadline_ms=20_000.0)) for n in (1, 2, 3))
    is_right(first, random_batch(1))
    is_right(third, random_batch(3))
    assert failed.status == "inference_failed" and failed.action is None and COMPLAINTS[device] in failed.message
    engine.send_signal(signal.SIGINT)
    assert engine.wait(20) == 0
    assert simulator.journal == []
    if isinstance(simulator, SD3403Simulator):
        assert len(simulator.pids) == 2 and simulator.gone()


@pytest.mark.parametrize("device", DEVICES)
def test_after_a_kill_in_mid_inference_another_engine_serves(
    device: str, tmp_path: Path, asking: Asking, start: Start
) -> None:
    """Fault: SIGKILL of the engine while the NPU computes. Expected: no worker is left, another engine serves, and
    nobody broke a rule."""
    path, simulator = make_policy(tmp_path / "policy", device, tmp_path)
    set_fault(simulator, request=1, hang=True)
    engine = start(path, device, simulator)
    ready(asking)
    asking.send(encode_request(request(1, deadline_ms=20_000.0), extended=True))
    assert wait_until(lambda: (simulator.directory / "hanging").exists(), 20), "the runtime never got the request"
    engine.kill()
    engine.wait(10)
    if isinstance(simulator, SD3403Simulator):
        assert simulator.gone(15)
    forget_faults(simulator)
    asking.cards.clear()
    second = start(path, device, simulator)
    ready(asking)
    is_right(asking.ask(request(2, batch=random_batch(2), deadline_ms=20_000.0)), random_batch(2))
    second.send_signal(signal.SIGINT)
    assert second.wait(20) == 0
    assert simulator.journal == []
    if isinstance(simulator, SD3403Simulator):
        assert len(simulator.pids) == 2 and simulator.gone()
