"""ONNX Runtime behind the interface: what is checked at load, and how it is set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends import onnx as backend
from inference_service.core.batch import AffineImage
from inference_service.core.errors import BackendError, BackendUnavailable, InferenceFailed, ModelLoadFailed
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder
from policies import make_plain_folder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CHUNK, DIM = 4, 6
INPUTS: dict[str, tuple[Any, ...]] = {"observation.state": (1, 6), "observation.images.top": (1, 3, 8, 10)}


def write_graph(
    folder: Path,
    inputs: dict[str, tuple[Any, ...]] = INPUTS,
    *,
    dtype: int = onnx.TensorProto.FLOAT,
    output: str = "action",
    chunk: int = CHUNK,
    extra: tuple[Any, ...] = (),
    metadata: dict[str, str] | None = None,
) -> None:
    """action[0, i] = i * state + mean(picture), in ``dtype``."""
    helper = onnx.helper
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    steps = onnx.numpy_helper.from_array(np.arange(chunk, dtype=numpy_dtype).reshape(1, chunk, 1), "steps")
    nodes = [
        helper.make_node("Mul", ["steps", "observation.state"], ["walk"]),
        helper.make_node("ReduceMean", ["observation.images.top"], ["shade"], keepdims=0),
        helper.make_node("Add", ["walk", "shade"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [*(helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()), *extra],
        [helper.make_tensor_value_info(output, dtype, (1, chunk, DIM))],
        [steps],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, folder / "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> PolicyFolder:
    make_plain_folder(tmp_path, image=(8, 10), cameras=("top",), chunk_size=CHUNK)
    write_graph(tmp_path)
    return PolicyFolder.load(tmp_path)


def load(folder: PolicyFolder, device: str = "cpu", threads: int = 0, **extra: Any) -> backend.OnnxPolicy:
    return backend.load(folder, BackendOptions(device, threads, extra))


def expected(state: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.arange(CHUNK)[:, None] * state + picture.mean()


@pytest.mark.parametrize(("dtype", "tolerance"), [(onnx.TensorProto.FLOAT, 1e-6), (onnx.TensorProto.FLOAT16, 2e-3)])
def test_float32_and_float16_graphs_give_float32_actions(folder: PolicyFolder, dtype: int, tolerance: float) -> None:
    write_graph(folder.path, dtype=dtype)
    rng = np.random.default_rng(0)
    state = rng.standard_normal((1, 6)).astype(np.float32)
    image = AffineImage(rng.integers(0, 256, (8, 10, 3), np.uint8), ImageNorm("mean_std", (0.5,) * 3, (0.2,) * 3))
    chunk = load(folder).predict_action_chunk({"observation.state": state, "observation.images.top": image})
    assert chunk.dtype == np.float32 and chunk.shape == (CHUNK, DIM)
    assert np.abs(chunk - expected(state, image.materialise())).max() < tolerance * 4


def test_a_tensor_of_torch_is_accepted(folder: PolicyFolder) -> None:
    torch = pytest.importorskip("torch")
    batch = {"observation.state": torch.ones(1, 6), "observation.images.top": torch.zeros(1, 3, 8, 10)}
    assert np.array_equal(load(folder).predict_action_chunk(batch)[1], np.ones(6, np.float32))


def test_axes_left_open_fit(folder: PolicyFolder) -> None:
    write_graph(folder.path, {"observation.state": ("batch", 6), "observation.images.top": ("batch", 3, None, 10)})
    load(folder)


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        ({"inputs": INPUTS | {"observation.state": (1, 7)}}, r"'observation.state' has shape \(1, 7\).*\(1, 6\)"),
        ({"inputs": INPUTS | {"observation.images.top": (1, 8, 10, 3)}}, r"\(1, 8, 10, 3\).*\(1, 3, 8, 10\)"),
        ({"dtype": onnx.TensorProto.DOUBLE}, r"'observation.state' is tensor\(double\), expected one of"),
        ({"output": "actions"}, r"no output 'action', it has 'actions'"),
        ({"chunk": 5}, r"output 'action' has shape \(1, 5, 6\), config.json says \(1, 4, 6\)"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_by_name(folder: PolicyFolder, graph: dict[str, Any], says: str) -> None:
    write_graph(folder.path, **graph)
    with pytest.raises(ModelLoadFailed, match=rf"model\.onnx.*{says}"):
        load(folder)


def test_a_graph_that_ignores_a_camera_or_wants_an_unknown_one_is_refused(tmp_path: Path) -> None:
    make_plain_folder(tmp_path, image=(8, 10), cameras=("top", "wrist"), chunk_size=CHUNK)
    write_graph(tmp_path)
    with pytest.raises(ModelLoadFailed, match=r"has no input 'observation.images.wrist'"):
        load(PolicyFolder.load(tmp_path))
    make_plain_folder(tmp_path, image=(8, 10), cameras=("top",), chunk_size=CHUNK)
    other = onnx.helper.make_tensor_value_info("observation.images.side", onnx.TensorProto.FLOAT, (1, 3, 8, 10))
    write_graph(tmp_path, extra=(other,))
    with pytest.raises(ModelLoadFailed, match=r"'observation.images.side', which config.json does not declare"):
        load(PolicyFolder.load(tmp_path))


def test_a_graph_of_other_weights_is_refused(folder: PolicyFolder) -> None:
    weights = folder.path / "model.safetensors"
    weights.write_bytes(b"trained once")
    write_graph(folder.path, metadata={backend.WEIGHTS_DIGEST: backend.digest(weights)})
    load(folder)
    weights.write_bytes(b"trained twice")
    with pytest.raises(ModelLoadFailed, match=r"exported from other weights.*inference_service\.export"):
        load(folder)
    weights.unlink()
    load(folder)


def test_a_device_that_is_not_here_lists_what_is(folder: PolicyFolder) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendUnavailable, match=r"lacks CUDAExecutionProvider, it has .*CPUExecutionProvider"):
        load(folder, "cuda")
    with pytest.raises(BackendUnavailable, match="lacks AcmeExecutionProvider"):
        load(folder, providers=["AcmeExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="no device 'tpu'"):
        load(folder, "tpu")
    with pytest.raises(BackendError, match="did you mean 'providers'"):
        load(folder, provider=["CPUExecutionProvider"])


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    folder: PolicyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises((BackendUnavailable, ModelLoadFailed), match="CUDA"):
        load(folder, "cuda:0")


def test_providers_follow_the_device() -> None:
    assert backend._providers("cpu") == ["CPUExecutionProvider"]
    assert backend._providers("cuda:1")[0] == ("CUDAExecutionProvider", {"device_id": 1})


def test_threads_are_bounded_and_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "available_cpus", lambda: 64)
    assert backend._session_options(onnxruntime, 3).intra_op_num_threads == 3
    options = backend._session_options(onnxruntime, 0)
    assert options.intra_op_num_threads == 8
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_what_the_runtime_refuses_is_a_typed_error(folder: PolicyFolder) -> None:
    batch = {"observation.state": np.ones((1, 7), np.float32), "observation.images.top": np.zeros((1, 3, 8, 10))}
    with pytest.raises(InferenceFailed, match=r"ONNX Runtime on cpu failed: .*observation\.state"):
        load(folder).predict_action_chunk(batch)
