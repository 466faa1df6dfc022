"""Backend ascend_om_3403: what config.om.json may say, from the file to the chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends.compiled.sd3403 import load
from inference_service.core.errors import BackendError, BackendUnavailable, ModelLoadFailed, PolicyFolderError
from inference_service.core.policy import BackendOptions, PolicyWrapper
from inference_service.core.policy_folder import PolicyFolder
from tests.policies import make_plain_folder
from tests.simulators.sd3403.rig import SD3403Simulator, install, stub_model

STATE, TOP, WRIST = "observation.state", "observation.images.top", "observation.images.wrist"
SIZES = {STATE: 6, TOP: 3 * 8 * 10, WRIST: 3 * 8 * 10}
Open = Callable[..., PolicyWrapper]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SD3403Simulator]:
    simulator = SD3403Simulator(tmp_path / "sd3403", stub=True)
    yield simulator
    assert simulator.journal == [] and simulator.gone()


@pytest.fixture
def open_policy(tmp_path: Path, simulator: SD3403Simulator) -> Iterator[Open]:
    """``open_policy(order, **sidecar)``: of an artifact with its inputs in ``order``."""
    opened: list[PolicyWrapper] = []

    def open_one(order: tuple[str, ...] = (STATE, TOP, WRIST), **sidecar: Any) -> PolicyWrapper:
        folder = make_plain_folder(tmp_path / f"policy{len(list(tmp_path.iterdir()))}", image=(8, 10), chunk_size=4)
        model = stub_model(tmp_path / "stub.om", [SIZES[name] for name in order], rows=4, width=6)
        install(folder, simulator, model, **sidecar)
        opened.append(load(PolicyFolder.load(folder), BackendOptions()))
        return opened[-1]

    yield open_one
    for policy in opened:
        policy.close()


def batch() -> dict[str, Any]:
    return {
        "task": [""],
        STATE: np.full((1, 6), 0.5, np.float32),
        TOP: np.zeros((1, 3, 8, 10), np.float32),
        WRIST: np.ones((1, 3, 8, 10), np.float32),
    }


def expected() -> np.ndarray:
    return (3 + 240 + np.arange(4)[:, None] + np.arange(6) / 10).astype(np.float32)


def test_a_batch_becomes_a_chunk(open_policy: Open) -> None:
    policy = open_policy()
    np.testing.assert_allclose(policy.predict_action_chunk(batch()), expected(), rtol=1e-5)
    assert (policy.spec.policy_type, policy.spec.backend_type, policy.spec.device) == ("act", "ascend_om_3403", "cpu")
    assert policy.spec.versions["sd3403 protocol"] == "1"


def test_bindings_give_the_order_of_the_inputs(open_policy: Open) -> None:
    order = (TOP, WRIST, STATE)
    inputs = [{"name": name, "index": index} for index, name in enumerate(order)]
    policy = open_policy(order, bindings={"policy": {"inputs": inputs}})
    np.testing.assert_allclose(policy.predict_action_chunk(batch()), expected(), rtol=1e-5)


def test_bindings_must_be_those_of_the_policy(open_policy: Open) -> None:
    inputs = [{"name": name, "index": index} for index, name in enumerate((STATE, TOP, "observation.images.side"))]
    with pytest.raises(ModelLoadFailed, match=r"declare the inputs .*side; the policy has .*wrist"):
        open_policy(bindings={"policy": {"inputs": inputs}})
    for wrong, message in (
        ({"shape": [1, 3, 10, 8]}, r"declared as \[1, 3, 10, 8\], config\.json makes it .*\[1, 3, 8, 10\]"),
        ({"layout": "NHWC"}, "takes float32, images as NCHW"),
        ({"dtype": "float16"}, "takes float32, images as NCHW"),
        ({"layout": "plain"}, "is declared as plain"),
    ):
        inputs = [{"name": name, "index": index} for index, name in enumerate((STATE, TOP, WRIST))]
        inputs[1] |= wrong
        with pytest.raises(ModelLoadFailed, match=message):
            open_policy(bindings={"policy": {"inputs": inputs}})


@pytest.mark.parametrize(
    "backend_config",
    [
        {"action_output": {"index": 2}},
        {"action_output_index": 2},
        {"sd3403_action_output_index": 2},
        {"action_output": {"index": 2}, "action_output_index": 2},
        {"action_output": {"index": 2, "layout": "strided", "stride": 8}},
    ],
)
def test_every_spelling_of_the_action_output(
    simulator: SD3403Simulator, open_policy: Open, backend_config: dict[str, Any]
) -> None:
    simulator.set(output=2, padded=True)
    policy = open_policy(backend_config=backend_config)
    np.testing.assert_allclose(policy.predict_action_chunk(batch()), expected(), rtol=1e-5)


@pytest.mark.parametrize(("shape", "padded"), [([1, 4, 8], True), ([1, 4, 6], False), ([4, 6], False), (None, True)])
def test_a_declared_output_tells_index_and_layout(
    simulator: SD3403Simulator, open_policy: Open, shape: list[int] | None, padded: bool
) -> None:
    simulator.set(output=2, padded=padded)
    outputs: list[dict[str, Any]] = [{"name": "mu", "index": 0}, {"name": "log_sigma", "index": 1}]
    outputs.append({"name": "action", "index": 2} | ({"shape": shape} if shape else {}))
    policy = open_policy(bindings={"policy": {"outputs": outputs}})
    np.testing.assert_allclose(policy.predict_action_chunk(batch()), expected(), rtol=1e-5)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two indices": (
        {"backend_config": {"action_output_index": 1, "action_output": {"index": 2}}},
        r"config\.om\.json: key 'backend_config': the action's output index is given as \[1, 2\]",
    ),
    "unknown key": ({"backend_config": {"svp_model_path": "x"}}, r"key 'backend_config\.svp_model_path' is unknown"),
    "unknown layout": ({"backend_config": {"action_output": {"layout": "blocked"}}}, r"action_output\.layout.*strided"),
    "stride of rows that touch": ({"backend_config": {"action_output": {"stride": 8}}}, "stride is for"),
    "no patience": ({"backend_config": {"request_timeout_s": 0}}, r"request_timeout_s.*greater than 0"),
    "declared shape": (
        {"bindings": {"policy": {"outputs": [{"name": "action", "index": 0, "shape": [1, 5, 6]}]}}},
        r"the action is declared as \[1, 5, 6\]; expected \[1, 4, n\]",
    ),
    "two places": (
        {
            "bindings": {"policy": {"outputs": [{"name": "action", "index": 0}]}},
            "backend_config": {"action_output_index": 3},
        },
        "says that the action is output 3, .* says 0",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_wrong_sidecar_names_file_and_key(open_policy: Open, mistake: str) -> None:
    sidecar, message = BAD[mistake]
    with pytest.raises(PolicyFolderError, match=message) as caught:
        open_policy(**sidecar)
    assert "config.om.json" in str(caught.value)


def test_times_are_those_of_the_sidecar(simulator: SD3403Simulator, open_policy: Open) -> None:
    simulator.set(faults={"2": "hang"})
    policy = open_policy(backend_config={"request_timeout_s": 0.2, "start_timeout_s": 20, "max_restarts": 0})
    with pytest.raises(BackendError, match="did not answer in time"):
        policy.predict_action_chunk(batch())
    with pytest.raises(BackendError, match="had its 0 restarts"):
        policy.predict_action_chunk(batch())


def test_other_devices_and_options_are_refused(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path / "policy", image=(8, 10), chunk_size=4))
    with pytest.raises(BackendUnavailable, match="no device 'npu'"):
        load(folder, BackendOptions(device="npu"))
    with pytest.raises(BackendError, match="no option 'worker'"):
        load(folder, BackendOptions(extra={"worker": "/bin/true"}))
    with pytest.raises(PolicyFolderError, match=r"config\.om\.json: no such file"):
        load(folder, BackendOptions())


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("no worker", ModelLoadFailed, r"artifacts\.worker.*main is missing"),
        ("no model", ModelLoadFailed, r"artifacts\.policy.*policy\.om is missing"),
        ("worker may not run", ModelLoadFailed, r"may not be executed; allow it with: chmod \+x"),
        ("empty model", ModelLoadFailed, r"policy\.om is empty"),
        ("other digest", ModelLoadFailed, "another SHA-256 than declared"),
        ("worker elsewhere", PolicyFolderError, "stays in the policy directory"),
    ],
)
def test_a_bad_artifact_is_named(
    tmp_path: Path, simulator: SD3403Simulator, what: str, kind: type[Exception], message: str
) -> None:
    folder = make_plain_folder(tmp_path / "policy", image=(8, 10), chunk_size=4)
    install(folder, simulator, stub_model(tmp_path / "stub.om", [1], 4, 6))
    sidecar = folder / "config.om.json"
    document = json.loads(sidecar.read_text())
    if what == "no worker":
        (folder / "om" / "main").unlink()
    elif what == "no model":
        (folder / "om" / "policy.om").unlink()
    elif what == "worker may not run":
        simulator.script.chmod(0o644)
    elif what == "empty model":
        (folder / "om" / "policy.om").unlink()
        (folder / "om" / "policy.om").touch()
    elif what == "other digest":
        document["artifacts"]["worker"] = {"path": "main", "sha256": "0" * 64}
    else:
        document["artifacts"]["worker"] = "../../../bin/true"
    sidecar.write_text(json.dumps(document))
    with pytest.raises(kind, match=message):
        load(PolicyFolder.load(folder), BackendOptions())
    assert simulator.pids == []
