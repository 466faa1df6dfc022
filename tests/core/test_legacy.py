"""Checkpoints whose normalisation lies inside the weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inference_service.core.batch import materialise
from inference_service.core.errors import MissingStatistics, PolicyError, PolicyFolderError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from tests.policies import Norm, make_observation, make_plain_folder

CAMERAS = ("left_wrist", "top")
MIXED = {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MEAN_STD"}
WEIGHTS = "model.safetensors"


def make_legacy(path: Path, norm: Norm = "MEAN_STD", **config: Any) -> Path:
    """A folder whose statistics were moved into its weights, as LeRobot 0.3 had them."""
    make_plain_folder(path, cameras=CAMERAS, norm=norm, **config)
    tensors = {"model.bias": np.zeros(5, np.float32)}
    for name in path.glob("*.safetensors"):
        outer = ["normalize_inputs"] if "pre" in name.name else ["normalize_targets", "unnormalize_outputs"]
        for key, value in load_file(name).items():
            feature, statistic = key.rsplit(".", 1)
            if statistic in ("mean", "std", "min", "max") and (feature == "action") == (len(outer) == 2):
                flat = feature.replace(".", "_")
                tensors |= {f"{prefix}.buffer_{flat}.{statistic}": value for prefix in outer}
        name.unlink()
    for name in path.glob("policy_*.json"):
        name.unlink()
    save_file(tensors, path / WEIGHTS)
    return path


def edit_weights(path: Path, rename: dict[str, str | None]) -> None:
    tensors = load_file(path / WEIGHTS)
    for old, new in rename.items():
        value = tensors.pop(old)
        if new is not None:
            tensors[new] = value
    save_file(tensors, path / WEIGHTS)


@pytest.mark.parametrize("norm", ["MEAN_STD", "MIN_MAX", MIXED], ids=["MEAN_STD", "MIN_MAX", "mixed"])
def test_it_computes_what_its_migrated_twin_computes(
    tmp_path: Path, norm: Norm, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        legacy = PolicyFolder.load(make_legacy(tmp_path / "legacy", norm))
    assert "a legacy checkpoint; normalisation taken from inside" in caplog.text
    assert legacy.legacy
    twin = PolicyFolder.load(make_plain_folder(tmp_path / "twin", cameras=CAMERAS, norm=norm))
    observation = make_observation(cameras=CAMERAS)
    mine, theirs = TensorPreprocessor(legacy)(observation), TensorPreprocessor(twin)(observation)
    assert list(mine.batch) == list(theirs.batch)
    for name in theirs.batch:
        assert np.array_equal(materialise(mine.batch[name]), materialise(theirs.batch[name])), name
    chunk = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    assert np.array_equal(TensorPostprocessor(legacy)(chunk), TensorPostprocessor(twin)(chunk))


def test_the_fingerprint_sees_the_statistics_inside(tmp_path: Path) -> None:
    first = PolicyFolder.load(make_legacy(tmp_path / "first")).fingerprint
    assert first == PolicyFolder.load(make_legacy(tmp_path / "second")).fingerprint
    assert first != PolicyFolder.load(make_legacy(tmp_path / "third", seed=1)).fingerprint
    assert first != PolicyFolder.load(make_legacy(tmp_path / "fourth", norm="MIN_MAX")).fingerprint


def test_the_copy_that_a_backend_loads_holds_the_weights_alone(tmp_path: Path) -> None:
    path = make_legacy(tmp_path / "legacy")
    tensors = load_file(path / WEIGHTS)
    tensors |= {"a.weight": np.arange(7, dtype=np.int8), "z": np.arange(12, dtype=np.float32).reshape(3, 4)}
    save_file(tensors, path / WEIGHTS)
    before = (path / WEIGHTS).read_bytes()
    with PolicyFolder.load(path).runtime_config_copy("cpu") as copy:
        found = load_file(copy / WEIGHTS)
    assert set(found) == {"model.bias", "a.weight", "z"}
    assert all(np.array_equal(found[name], tensors[name]) for name in found)
    assert (path / WEIGHTS).read_bytes() == before
    (path / WEIGHTS).write_bytes(before[:-30])
    with pytest.raises(PolicyFolderError, match=f"{WEIGHTS}: cut off"):
        PolicyFolder.load(path).runtime_config_copy("cpu").__enter__()


def test_lerobots_policy_of_a_legacy_checkpoint_answers_as_its_migrated_twin(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    from inference_service.backends.lerobot_torch import load_lerobot_policy
    from tests.policies import make_act_folder

    twin = make_act_folder(tmp_path / "twin", cameras=CAMERAS, dim_model=16)
    legacy = make_legacy(tmp_path / "legacy")
    save_file(load_file(twin / WEIGHTS) | load_file(legacy / WEIGHTS), legacy / WEIGHTS)
    edit_weights(legacy, {"model.bias": None})
    (legacy / "config.json").write_text((twin / "config.json").read_text())
    import torch

    answers = []
    for path in (twin, legacy):
        folder = PolicyFolder.load(path)
        batch = TensorPreprocessor(folder)(make_observation(cameras=CAMERAS)).batch
        policy = load_lerobot_policy(folder, "cpu", strict=True)
        with torch.no_grad():
            chunk = policy.predict_action_chunk({k: torch.from_numpy(materialise(v)) for k, v in batch.items()})
        answers.append(TensorPostprocessor(folder)(chunk[0].numpy()))
    assert np.array_equal(*answers)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "normalize_inputs.buffer_observation_images_left_wrist.mean",
            None,
            ["'observation.images.left_wrist'", "'normalize_inputs.buffer_observation_images_top.mean'"],
        ),
        (
            "unnormalize_outputs.buffer_action.std",
            "unnormalize_outputs.so100.buffer_action.std",
            ["the action 'action'", "'unnormalize_outputs.so100.buffer_action.std'"],
        ),
        (
            "normalize_inputs.buffer_observation_state.std",
            "normalize_inputs.so100.buffer_observation_state.std",
            ["'observation.state'", "'normalize_inputs.so100.buffer_observation_state.std'"],
        ),
    ],
)
def test_a_feature_without_its_statistics_is_refused(
    tmp_path: Path, old: str, new: str | None, words: list[str]
) -> None:
    path = make_legacy(tmp_path / "legacy")
    edit_weights(path, {old: new})
    with pytest.raises(MissingStatistics) as caught:
        PolicyFolder.load(path)
    for word in [str(path / WEIGHTS), f"'{old}'", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_statistics_that_were_never_computed(tmp_path: Path, value: float) -> None:
    """LeRobot 0.3 filled them with infinity."""
    path = make_legacy(tmp_path / "legacy")
    tensors = load_file(path / WEIGHTS)
    tensors["normalize_inputs.buffer_observation_state.std"][:] = value
    save_file(tensors, path / WEIGHTS)
    with pytest.raises(PolicyFolderError, match=rf"{WEIGHTS}: 'observation.state.std' is not finite"):
        TensorPreprocessor(PolicyFolder.load(path))


def test_a_configuration_without_modes_is_not_taken_for_identity(tmp_path: Path) -> None:
    path = make_legacy(tmp_path / "legacy", normalization_mapping={})
    with pytest.raises(PolicyFolderError, match=r"config\.json: a legacy checkpoint without 'normalization_mapping'"):
        PolicyFolder.load(path)


def test_families_whose_steps_are_unknown_are_refused(tmp_path: Path) -> None:
    path = make_legacy(tmp_path / "legacy", type="pi0fast")
    with pytest.raises(PolicyFolderError, match="family 'pi0fast'"):
        PolicyFolder.load(path)


@pytest.mark.parametrize(("family", "padding"), [("pi0", "max_length"), ("smolvla", "longest")])
def test_language_families_get_their_steps_on_the_prompt(tmp_path: Path, family: str, padding: str) -> None:
    path = make_legacy(tmp_path / "legacy", type=family, vlm_model_name="hub/name", tokenizer_max_length=30)
    steps = PolicyFolder.load(path).preprocessor.steps
    assert [step.name.removesuffix("_processor") for step in steps] == [
        "rename_observations",
        "to_batch",
        f"{family}_new_line",
        "tokenizer",
        "device",
        "normalizer",
    ]
    assert steps[3].config["max_length"] == 30
    assert steps[3].config["padding"] == padding


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [6], "data_offsets": [0, 20]},
        {"dtype": "F32", "shape": [6], "data_offsets": [-24, 0]},
        {"dtype": "F32", "shape": [6], "data_offsets": [2**40, 2**40 + 24]},
        {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]},
        {"dtype": "X", "shape": [6], "data_offsets": [0, 24]},
        {"dtype": "F32"},
        [],
    ],
    ids=str,
)
def test_corrupt_weights(tmp_path: Path, entry: Any) -> None:
    path = make_legacy(tmp_path / "legacy")
    text = json.dumps({"normalize_inputs.buffer_observation_state.mean": entry}).encode()
    (path / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(PolicyError, match=WEIGHTS):
        PolicyFolder.load(path)


def test_a_migration_that_lost_a_camera_is_noticed(tmp_path: Path) -> None:
    """LeRobot's own turns every "_" of a name into a dot, and that camera goes un-normalised in silence."""
    path = make_plain_folder(tmp_path / "migrated", cameras=CAMERAS)
    file = path / "policy_preprocessor.json"
    file.write_text(file.read_text().replace("images.left_wrist", "images.left.wrist"))
    with pytest.raises(MissingStatistics, match=r"'observation\.images\.left_wrist' is not listed.*left\.wrist"):
        TensorPreprocessor(PolicyFolder.load(path))
