"""Backend rknn: model.rknn and what config.rknn.json may say, from the file to the chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends.compiled.rknn import load
from inference_service.core.errors import BackendError, BackendUnavailable, ModelLoadFailed, PolicyFolderError
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder
from tests.policies import make_plain_folder
from tests.simulators.rknnlite.rig import RKNNSimulator, installed, tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

STATE, TOP, WRIST = "observation.state", "observation.images.top", "observation.images.wrist"
GRAPH = {STATE: (1, 6), TOP: (1, 3, 8, 10), WRIST: (1, 3, 8, 10)}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[RKNNSimulator]:
    with installed(tmp_path / "rknn") as simulator:
        yield simulator
        assert simulator.journal == [] and simulator.unreleased == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_plain_folder(tmp_path / "policy", image=(8, 10), chunk_size=4)


def write_sidecar(path: Path, **content: Any) -> None:
    document = {"schema_version": 1, "policy_type": "act", "backend": "rknn", "artifacts": {"policy": "model.rknn"}}
    (path / "config.rknn.json").write_text(json.dumps(document | content))


def batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"task": [""]} | {name: rng.standard_normal(shape).astype(np.float32) for name, shape in GRAPH.items()}


def chunk_of(path: Path) -> np.ndarray:
    policy = load(PolicyFolder.load(path), BackendOptions())
    try:
        return policy.predict_action_chunk(batch())
    finally:
        policy.close()


def reference(model: Path, given: dict[str, Any]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {name: given[name] for name in GRAPH})[0][0]


def test_without_a_sidecar_it_is_model_rknn_in_the_order_of_config_json(simulator: RKNNSimulator, path: Path) -> None:
    model = tiny_model(path / "model.rknn", GRAPH)
    policy = load(PolicyFolder.load(path), BackendOptions())
    chunk = policy.predict_action_chunk(batch())
    policy.close()
    np.testing.assert_allclose(chunk, reference(model, batch()), rtol=1e-4, atol=1e-4)
    assert (policy.spec.backend_type, policy.spec.device) == ("rknn", "cpu")
    assert policy.spec.versions == {"librknnrt": "2.3.2", "rknpu driver": "0.9.8", "npu cores": "auto"}


@pytest.mark.parametrize("layout", [None, "NHWC", "NCHW"])
def test_bindings_give_order_and_layout(simulator: RKNNSimulator, path: Path, layout: str | None) -> None:
    """The converter turned the inputs round; both cameras have one size, so RKNNLite would not notice."""
    order = [WRIST, TOP, STATE]
    model = tiny_model(path / "model.rknn", GRAPH, order=order)
    inputs: list[dict[str, Any]] = [{"name": name, "index": index} for index, name in enumerate(order)]
    for binding in inputs[:2]:
        binding |= {"layout": layout} if layout else {}
    write_sidecar(path, bindings={"policy": {"inputs": inputs, "outputs": [{"name": "action", "index": 0}]}})
    np.testing.assert_allclose(chunk_of(path), reference(model, batch()), rtol=1e-4, atol=1e-4)


def test_swapped_cameras_are_seen_in_the_log(
    simulator: RKNNSimulator, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = tiny_model(path / "model.rknn", GRAPH, order=[STATE, WRIST, TOP])
    swapped = batch()
    swapped[TOP], swapped[WRIST] = swapped[WRIST], swapped[TOP]
    np.testing.assert_allclose(chunk_of(path), reference(model, swapped), rtol=1e-4, atol=1e-4)
    assert f"inputs: 0 {STATE}, 1 {TOP}, 2 {WRIST}" in caplog.text


def test_half_precision_inputs(simulator: RKNNSimulator, path: Path) -> None:
    model = tiny_model(path / "model.rknn", GRAPH)
    inputs = [{"name": name, "index": index, "dtype": "float16"} for index, name in enumerate(GRAPH)]
    write_sidecar(path, bindings={"policy": {"inputs": inputs}})
    np.testing.assert_allclose(chunk_of(path), reference(model, batch()), rtol=1e-2, atol=0.1)


def test_cores_make_a_pool(simulator: RKNNSimulator, path: Path) -> None:
    tiny_model(path / "model.rknn", GRAPH)
    write_sidecar(path, backend_config={"cores": ["0", "1", "2"], "busy_timeout_s": 1.5})
    policy = load(PolicyFolder.load(path), BackendOptions())
    assert sorted(lite.mask for lite in simulator.unreleased) == [1, 2, 4]
    assert policy.spec.versions["npu cores"] == "0, 1, 2"
    policy.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"backend_config": {"cores": []}}, r"key 'backend_config\.cores'"),
        ({"backend_config": {"cores": ["3"]}}, r"key 'backend_config\.cores\.0'"),
        ({"backend_config": {"core_mask": 7}}, r"key 'backend_config\.core_mask' is unknown"),
        ({"backend": "ascend_om"}, "key 'backend' is 'ascend_om', expected 'rknn'"),
    ],
)
def test_a_wrong_sidecar_names_file_and_key(
    simulator: RKNNSimulator, path: Path, content: dict[str, Any], message: str
) -> None:
    tiny_model(path / "model.rknn", GRAPH)
    write_sidecar(path, **content)
    with pytest.raises(PolicyFolderError, match=rf"config\.rknn\.json: {message}"):
        load(PolicyFolder.load(path), BackendOptions())


def test_an_artifact_of_another_policy_is_refused_and_released(simulator: RKNNSimulator, path: Path) -> None:
    tiny_model(path / "model.rknn", GRAPH, output=(1, 5, 6))
    with pytest.raises(ModelLoadFailed, match=r"is \[1, 5, 6\], config\.json gives a chunk of 4 actions of 6"):
        load(PolicyFolder.load(path), BackendOptions())


def test_a_missing_artifact_is_named(simulator: RKNNSimulator, path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model\.rknn is missing"):
        load(PolicyFolder.load(path), BackendOptions())


def test_other_devices_and_options_are_refused(simulator: RKNNSimulator, path: Path) -> None:
    folder = PolicyFolder.load(path)
    with pytest.raises(BackendUnavailable, match=r"no device '1'.*backend_config\.cores"):
        load(folder, BackendOptions(device="1"))
    with pytest.raises(BackendError, match="no option 'core_mask'"):
        load(folder, BackendOptions(extra={"core_mask": 1}))


def test_without_rknnlite(path: Path) -> None:
    pytest.importorskip("onnx")
    tiny_model(path / "model.rknn", GRAPH)
    with pytest.raises(BackendUnavailable, match=r"RKNNLite cannot be imported \(No module named 'rknnlite"):
        load(PolicyFolder.load(path), BackendOptions())
