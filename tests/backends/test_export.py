"""Export to ONNX: same numbers, half the bytes, refused rather than wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_service import export as module
from inference_service.backends import onnx as backend
from inference_service.core.batch import AffineImage, Batch, FeatureType
from inference_service.core.errors import ModelLoadFailed
from inference_service.core.policy import NO_CONTEXT, BackendOptions
from inference_service.core.policy_folder import PolicyFolder
from policies import make_act_folder, make_plain_folder

for library in ("lerobot", "onnx", "onnxruntime"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy whose weights are stored in half precision."""
    from safetensors.torch import load_file, save_file

    path = make_act_folder(tmp_path_factory.mktemp("act"), image=(32, 48), chunk_size=8, dim_model=32)
    weights = path / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    return path


@pytest.fixture(scope="module")
def difference(path: Path) -> float:
    return module.export(path)


def test_the_graph_computes_what_torch_computes(difference: float) -> None:
    assert 0 < difference < 1e-5


def test_the_backend_takes_the_graph(path: Path, difference: float) -> None:
    policy = backend.load(PolicyFolder.load(path), BackendOptions())
    assert (policy.spec.policy_type, policy.spec.chunk_size) == ("act", 8)


def test_the_graph_takes_any_number_of_robots(path: Path, difference: float) -> None:
    policy = backend.load(PolicyFolder.load(path), BackendOptions())
    assert policy.spec.max_batch == 8
    batches = [random_batch(path, seed) for seed in range(5)]
    together = policy.predict_action_chunks([(batch, NO_CONTEXT) for batch in batches])
    assert len(together) == 5
    for chunk, batch in zip(together, batches, strict=True):
        assert np.abs(chunk - policy.predict_action_chunk(batch)).max() < 1e-5
    assert backend.load(PolicyFolder.load(path), BackendOptions(extra={"max_batch": 1})).spec.max_batch == 1


def test_a_graph_for_one_robot_on_request(path: Path, tmp_path: Path) -> None:
    for file in path.iterdir():
        if file.name != "model.onnx":
            (tmp_path / file.name).symlink_to(file)
    assert module.main([str(tmp_path), "--batch-of-one"]) == 0
    policy = backend.load(PolicyFolder.load(tmp_path), BackendOptions())
    assert policy.spec.max_batch == 1
    assert policy.predict_action_chunk(random_batch(path, 0)).shape == (8, 6)


def random_batch(path: Path, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    features = PolicyFolder.load(path).config.input_features
    batch: Batch = {}
    for name, feature in features.items():
        if feature.type is FeatureType.VISUAL:
            channels, height, width = feature.shape
            batch[name] = AffineImage(rng.integers(0, 256, (height, width, channels), np.uint8))
        else:
            batch[name] = rng.standard_normal((1, *feature.shape)).astype(np.float32)
    return batch


def test_weights_are_stored_in_half_where_exact_and_widened_by_a_cast(path: Path, difference: float) -> None:
    import onnx

    graph = onnx.load(path / "model.onnx").graph
    stored = {i.name: (i.data_type, int(np.prod(i.dims))) for i in graph.initializer}
    casts = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    halved = {name for name, (data_type, _) in stored.items() if data_type == onnx.TensorProto.FLOAT16}
    assert halved and halved <= casts
    numbers = sum(size for _, size in stored.values())
    assert sum(stored[name][1] for name in halved) > 0.99 * numbers
    assert (path / "model.onnx").stat().st_size < 2.1 * numbers


def test_the_file_is_readable_by_others_and_nothing_else_is_left(path: Path, difference: float) -> None:
    assert (path / "model.onnx").stat().st_mode & 0o777 == 0o644
    assert not [file for file in path.iterdir() if file.is_dir()]


def test_full_precision_weights_stay_exact() -> None:
    import onnx

    exact, inexact = np.full(2048, 0.5, np.float32), np.full(2048, 0.1, np.float32)
    large = np.full(2048, 1e6, np.float32)
    graph = onnx.helper.make_graph([], "g", [], [])
    for name, values in (("exact", exact), ("inexact", inexact), ("large", large)):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    module._halve(graph)
    types = {i.name: i.data_type for i in graph.initializer}
    assert types == {
        "exact.half": onnx.TensorProto.FLOAT16,
        "inexact": onnx.TensorProto.FLOAT,
        "large": onnx.TensorProto.FLOAT,
    }


def test_a_graph_that_differs_is_not_written(path: Path, difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (path / "model.onnx").read_bytes()
    monkeypatch.setattr(module, "_trace", lambda policy, folder, target, batched: target.write_bytes(b"another graph"))
    monkeypatch.setattr(module, "_finish", lambda candidate, folder: None)
    for wrong in (2e-4, float("nan")):
        monkeypatch.setattr(module, "_largest_difference", lambda *_, wrong=wrong: wrong)
        with pytest.raises(ModelLoadFailed, match="differs from torch"):
            module.export(path)
    assert (path / "model.onnx").read_bytes() == before


def test_other_families_and_wrong_paths_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelLoadFailed, match=r"config\.json: policy type 'pi0' cannot be exported; supported: act"):
        module.export(make_plain_folder(tmp_path / "pi0", type="pi0"))
    assert module.main([str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
