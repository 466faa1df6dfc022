"""What a device needs of a policy: enough to prepare and un-prepare, no weights, and the same fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.errors import PolicyFolderError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.core.small_files import small_files
from inference_service.wire.policy_files import PolicyFiles
from tests.families import make_plain_language_folder, make_tokenizer
from tests.policies import make_observation, make_plain_folder

PRE = "policy_preprocessor.json"


def copied(folder: PolicyFolder, target: Path) -> PolicyFolder:
    PolicyFiles(folder.fingerprint, small_files(folder)).write(target)
    return PolicyFolder.load(target)


def test_a_policy_without_weights_is_the_same_policy(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy")
    (path / "model.safetensors").write_bytes(bytes(1000))
    (path / "model.onnx").write_bytes(bytes(1000))
    folder = PolicyFolder.load(path)
    copy = copied(folder, tmp_path / "copy")
    assert copy.fingerprint == folder.fingerprint
    assert not [p for p in copy.path.rglob("*") if p.name.startswith("model")]


@pytest.mark.parametrize("place", ["tokenizer", "artifact", "absolute", "beside"])
def test_prompts_become_the_same_tokens_elsewhere(tmp_path: Path, place: str) -> None:
    pytest.importorskip("tokenizers")
    path = make_plain_language_folder(tmp_path / "policy")
    pipeline = json.loads((path / PRE).read_text())
    step = next(s for s in pipeline["steps"] if s["registry_name"] == "tokenizer_processor")
    shutil.rmtree(path / "tokenizer", ignore_errors=True)
    directories = {"artifact": path / "words", "absolute": tmp_path / "models" / "words", "beside": path}
    make_tokenizer(directories.get(place, path / "tokenizer"))
    if place == "artifact":
        step["artifacts"] = {"tokenizer_name": "words"}
    if place == "absolute":
        step["config"]["tokenizer_name"] = str(directories[place])
    (path / PRE).write_text(json.dumps(pipeline))
    folder = PolicyFolder.load(path)
    observation = {**make_observation(image=(32, 32), cameras=("top",)), "task": "pick up the cube"}
    expected, fingerprint = TensorPreprocessor(folder)(observation).batch, folder.fingerprint
    files = PolicyFiles(fingerprint, small_files(folder))
    shutil.rmtree(tmp_path / "policy")
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
    files.write(tmp_path / "copy")
    copy = PolicyFolder.load(tmp_path / "copy")
    assert copy.fingerprint == fingerprint
    tokens = "observation.language.tokens"
    np.testing.assert_array_equal(TensorPreprocessor(copy)(observation).batch[tokens], expected[tokens])


def test_the_fingerprint_sees_the_tokenizer(tmp_path: Path) -> None:
    path = make_plain_language_folder(tmp_path / "policy")
    directory = next(path.rglob("tokenizer.json")).parent
    seen = {PolicyFolder.load(path).fingerprint}
    text = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps({**text, "version": "another"}))
    seen.add(PolicyFolder.load(path).fingerprint)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": "left"}))
    seen.add(PolicyFolder.load(path).fingerprint)
    (directory / "tokenizer_config.json").write_text(
        json.dumps({**config, "truncation_side": "left", "transformers_version": "5"})
    )
    assert PolicyFolder.load(path).fingerprint in seen and len(seen) == 3
    (directory / "tokenizer.json").unlink()
    assert PolicyFolder.load(path).fingerprint not in seen


def test_a_legacy_checkpoint_cannot_be_had_without_its_weights(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path / "policy"))
    legacy = PolicyFolder(folder.path, folder.config, folder.preprocessor, folder.postprocessor, legacy=True)
    with pytest.raises(PolicyFolderError, match=r"model\.safetensors: a legacy checkpoint"):
        small_files(legacy)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path / "policy"))
    gone = next(folder.path.glob("*.safetensors"))
    gone.unlink()
    with pytest.raises(PolicyFolderError, match=gone.name):
        small_files(folder)


def test_the_weights_are_not_given_away_as_a_state(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy")
    state = next(path.glob("policy_preprocessor*.safetensors"))
    shutil.move(state, path / "model.safetensors")
    pipeline = json.loads((path / PRE).read_text())
    for step in pipeline["steps"]:
        if "state_file" in step:
            step["state_file"] = "model.safetensors"
    (path / PRE).write_text(json.dumps(pipeline))
    assert "model.safetensors" not in small_files(PolicyFolder.load(path))
