"""Reading a policy directory: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference_service.core.batch import FeatureType
from inference_service.core.errors import PolicyFolderError
from inference_service.core.policy_config import NormMode
from inference_service.core.policy_folder import PolicyFolder
from tests.policies import make_plain_folder

PRE = "policy_preprocessor.json"
STATE = "policy_preprocessor_step_3_normalizer_processor.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_plain_folder(tmp_path / "policy")


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON object; ``None`` removes the key."""
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(PolicyFolderError) as caught:
        PolicyFolder.load(path)
    for word in words:
        assert word in str(caught.value)


def test_reads_what_serving_needs(path: Path) -> None:
    config = PolicyFolder.load(path).config
    assert config.type == "act"
    assert list(config.input_features) == ["observation.state", "observation.images.top", "observation.images.wrist"]
    assert config.input_features["observation.images.top"].shape == (3, 96, 128)
    assert (config.chunk_size, config.n_action_steps, config.n_obs_steps, config.action_dim) == (20, 20, 1, 6)
    assert config.normalization_mapping[FeatureType.VISUAL] is NormMode.MEAN_STD
    assert config.raw["device"] == "cuda"


def test_reads_steps_in_order_with_their_statistics(path: Path) -> None:
    steps = PolicyFolder.load(path).preprocessor.steps
    assert [step.name for step in steps] == [
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
    ]
    assert steps[3].state["observation.images.top.mean"].shape == (3, 1, 1)


def test_diffusion_answers_n_action_steps(path: Path) -> None:
    edit(path / "config.json", chunk_size=None, n_action_steps=8)
    assert PolicyFolder.load(path).config.chunk_size == 8


def test_bfloat16_statistics(path: Path) -> None:
    """BF16 is the upper half of float32; numpy has no such type."""
    header = {"action.mean": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    values = np.array([1.5, -0.375], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    (path / STATE).write_bytes(len(text).to_bytes(8, "little") + text + data)
    state = PolicyFolder.load(path).preprocessor.steps[3].state
    assert state["action.mean"].dtype == np.float32
    assert state["action.mean"].tolist() == values.tolist()


def test_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no such directory")


def test_a_file_is_no_directory(path: Path) -> None:
    refused(path / "config.json", "is a file")


def test_not_a_policy_directory(tmp_path: Path) -> None:
    refused(tmp_path, "not a policy directory", "config.json", "checkpoints/last/pretrained_model")


def test_a_training_run_points_at_its_policy(path: Path, tmp_path: Path) -> None:
    inner = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    shutil.copytree(path, inner)
    refused(tmp_path / "run", f"did you mean {inner}")


@pytest.mark.parametrize("text", ["{", "\xff", "[" * 100_000], ids=["cut", "latin-1", "deep"])
def test_broken_json(path: Path, text: str) -> None:
    (path / "config.json").write_bytes(text.encode("latin-1"))
    refused(path, "config.json", "not valid JSON")


def test_json_of_another_kind(path: Path) -> None:
    (path / "config.json").write_text("[1]")
    refused(path, "config.json", "list", "expected an object")


def test_oversized_json(path: Path) -> None:
    (path / "config.json").write_bytes(b" " * (4 * 2**20 + 1))
    refused(path, "config.json", "larger than")


IMAGE = {"type": "VISUAL", "shape": [3, 96, 128]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": None}, ["'type' is missing", "not the config.json of a LeRobot policy"]),
        ({"type": 3}, ["'type'", "str"]),
        ({"input_features": None}, ["'input_features' is missing"]),
        ({"input_features": {}}, ["'input_features' is empty"]),
        ({"input_features": {"a": {"type": "SMELL", "shape": [1]}}}, ["input_features.a.type", "'SMELL'", "VISUAL"]),
        ({"input_features": {"a": {"type": "STATE"}}}, ["input_features.a", "'shape' is missing"]),
        ({"input_features": {"a": {"type": "STATE", "shape": [0]}}}, ["input_features.a.shape", "positive"]),
        ({"input_features": {"a": {"type": "STATE", "shape": [2**40]}}}, ["input_features.a.shape", "at most"]),
        ({"input_features": {"a": {"type": "STATE", "shape": ["6"]}}}, ["input_features.a.shape", "int"]),
        ({"input_features": {"a": {"type": "VISUAL", "shape": [96, 128]}}}, ["input_features.a.shape", "channels"]),
        ({"output_features": {}}, ["output_features.action"]),
        ({"output_features": {"action": IMAGE}}, ["output_features.action"]),
        ({"chunk_size": None, "n_action_steps": None}, ["chunk_size", "n_action_steps"]),
        ({"chunk_size": 0}, ["'chunk_size'", "found 0"]),
        ({"chunk_size": True}, ["'chunk_size'", "True"]),
        ({"normalization_mapping": {"STATE": "MODE"}}, ["normalization_mapping.STATE", "'MODE'", "QUANTILES"]),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_config_errors_name_the_key(path: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit(path / "config.json", **changes)
    refused(path, str(path / "config.json"), *words)


@pytest.mark.parametrize("name", [PRE, "policy_postprocessor.json"])
def test_missing_processor_file(path: Path, name: str) -> None:
    (path / name).unlink()
    refused(path, str(path / name), "no such file", "unnormalised")


def test_new_weights_without_processors_are_not_called_legacy(path: Path) -> None:
    (path / PRE).unlink()
    (path / "policy_postprocessor.json").unlink()
    save_file({"model.weight": np.zeros(6, np.float32)}, path / "model.safetensors")
    refused(path, PRE, "no such file")


@pytest.mark.parametrize(
    "data", [b"", b"12345678", b"\x10\0\0\0\0\0\0\0not json at all!"], ids=["empty", "length", "header"]
)
def test_corrupt_weights_of_a_folder_without_processors(path: Path, data: bytes) -> None:
    (path / PRE).unlink()
    (path / "policy_postprocessor.json").unlink()
    (path / "model.safetensors").write_bytes(data)
    refused(path, "model.safetensors")


def test_missing_state_file(path: Path) -> None:
    (path / STATE).unlink()
    refused(path, STATE, "no such file", "whole policy folder")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_corrupt_state_file(path: Path, keep: int) -> None:
    data = (path / STATE).read_bytes()
    (path / STATE).write_bytes(data[:keep])
    refused(path, STATE, "corrupt")


def test_oversized_state_file(path: Path) -> None:
    with (path / STATE).open("r+b") as file:
        file.truncate(64 * 2**20 + 1)
    refused(path, STATE, "larger than")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\\b", "..", "", 7])
def test_state_file_outside_the_folder(path: Path, name: Any) -> None:
    pipeline = json.loads((path / PRE).read_text())
    pipeline["steps"][3]["state_file"] = name
    (path / PRE).write_text(json.dumps(pipeline))
    refused(path, PRE, "steps[3].state_file")


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ({}, ["'steps' is missing"]),
        ({"steps": 3}, ["'steps'", "list"]),
        ({"steps": [3]}, ["steps[0]", "dict"]),
        ({"steps": [{}]}, ["steps[0]", "'registry_name' is missing"]),
        ({"steps": [{"registry_name": "x", "config": 3}]}, ["steps[0].config", "dict"]),
        ({"steps": [{"registry_name": "x"}] * 65}, ["65 entries"]),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_processor_errors_name_the_step(path: Path, pipeline: dict[str, Any], words: list[str]) -> None:
    (path / PRE).write_text(json.dumps(pipeline))
    refused(path, str(path / PRE), *words)


def fingerprint(path: Path) -> str:
    return PolicyFolder.load(path).fingerprint


def test_fingerprint_is_stable_and_short_enough_to_print(path: Path, tmp_path: Path) -> None:
    assert fingerprint(path) == fingerprint(make_plain_folder(tmp_path / "again"))
    assert len(fingerprint(path)) == 64
    assert int(fingerprint(path), 16)


def test_fingerprint_ignores_deployment_and_formatting(path: Path) -> None:
    before = fingerprint(path)
    edit(path / "config.json", device="cpu", use_amp=True, compile_model=True, tags=["x"], repo_id="a/b", private=True)
    edit(path / "config.json", pretrained_path="/x", push_to_hub=False, license="mit", pretrained_backbone_weights="W")
    pipeline = json.loads((path / PRE).read_text())
    pipeline["steps"][2]["config"]["device"] = "cuda"
    (path / PRE).write_text(json.dumps(pipeline, indent=7, sort_keys=True))
    assert fingerprint(path) == before


def test_fingerprint_ignores_the_weights(path: Path) -> None:
    before = fingerprint(path)
    (path / "model.safetensors").write_bytes(b"anything")
    assert fingerprint(path) == before


@pytest.mark.parametrize("key", ["chunk_size", "n_action_steps", "dim_model"])
def test_fingerprint_sees_the_architecture(path: Path, key: str) -> None:
    before = fingerprint(path)
    edit(path / "config.json", **{key: 7})
    assert fingerprint(path) != before


def test_fingerprint_sees_the_order_of_cameras(path: Path) -> None:
    before = fingerprint(path)
    features = json.loads((path / "config.json").read_text())["input_features"]
    edit(path / "config.json", input_features=dict(reversed(features.items())))
    assert fingerprint(path) != before


@pytest.mark.parametrize("name", [PRE, "policy_postprocessor.json"])
def test_fingerprint_sees_the_steps(path: Path, name: str) -> None:
    before = fingerprint(path)
    pipeline = json.loads((path / name).read_text())
    pipeline["steps"].pop(0)
    (path / name).write_text(json.dumps(pipeline))
    assert fingerprint(path) != before


def test_fingerprint_sees_one_bit_of_the_statistics(path: Path) -> None:
    before = fingerprint(path)
    data = bytearray((path / STATE).read_bytes())
    data[-1] ^= 1
    (path / STATE).write_bytes(data)
    assert fingerprint(path) != before


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir() if file.is_file()}


def test_runtime_copy_overrides_the_device_and_leaves_the_source_alone(path: Path) -> None:
    edit(path / "config.json", pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "tokenizer").mkdir()
    before, listing = snapshot(path), sorted(path.iterdir())
    with PolicyFolder.load(path).runtime_config_copy("cuda:1") as copy:
        config = json.loads((copy / "config.json").read_text())
        assert config["device"] == "cuda:1"
        assert config["pretrained_backbone_weights"] is None
        original = json.loads((path / "config.json").read_text())
        unchanged = config.keys() - {"device", "pretrained_backbone_weights"}
        assert {key: config[key] for key in unchanged} == {key: original[key] for key in unchanged}
        assert list(config["input_features"]) == list(original["input_features"])
        assert (copy / "model.safetensors").read_bytes() == b"weights"
        assert sorted(entry.name for entry in copy.iterdir()) == [entry.name for entry in listing]
        assert fingerprint(copy) == fingerprint(path)
    assert not copy.exists()
    assert snapshot(path) == before
    assert sorted(path.iterdir()) == listing


def test_runtime_copy_adds_no_key_that_was_not_there(path: Path) -> None:
    with PolicyFolder.load(path).runtime_config_copy("cpu") as copy:
        assert "pretrained_backbone_weights" not in json.loads((copy / "config.json").read_text())


def test_runtime_copy_of_a_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with PolicyFolder.load(path.name).runtime_config_copy("cpu") as copy:
        assert (copy / PRE).read_bytes() == (path / PRE).read_bytes()


def test_a_home_that_is_nobodys_is_named() -> None:
    with pytest.raises(PolicyFolderError, match="~nobody-of-that-name is nobody's home directory here"):
        PolicyFolder.load("~nobody-of-that-name/policy")
