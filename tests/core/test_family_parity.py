"""The processors of every family against LeRobot's own pipelines, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import materialise
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import Prepared, TensorPreprocessor
from tests.families import PROMPT, lerobot_pipelines, make_family_folder
from tests.policies import make_observation

pytest.importorskip("lerobot")
pytest.importorskip("tokenizers")

TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"
NAMES = [f"{name}.pos" for name in ("shoulder_pan", "lift", "elbow", "wrist_flex", "wrist_roll", "Gripper")]
RELATIVE = {"use_relative_actions": True, "relative_exclude_joints": ["gripper"], "action_feature_names": NAMES}
WITHOUT_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusion": ("diffusion", {}),
    "vqbet": ("vqbet", {"crop_shape": (28, 28)}),
    "tdmpc": ("tdmpc", {}),
}
WITH_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "pi0": ("pi0", {}),
    "pi0 relative": ("pi0", RELATIVE),
    "pi0 short": ("pi0", {"tokenizer_max_length": 7}),
    "pi0 identity": ("pi0", {"norm": "IDENTITY"}),
    "pi05": ("pi05", {}),
    "pi05 relative": ("pi05", RELATIVE),
    "pi05 all relative": ("pi05", {"use_relative_actions": True}),
    "pi05 short": ("pi05", {"tokenizer_max_length": 20}),
    "smolvla": ("smolvla", {"pad_language_to": "max_length"}),
    "smolvla longest": ("smolvla", {}),
    "xvla": ("xvla", {}),
}


@pytest.fixture(scope="module", params=[*WITHOUT_LANGUAGE, *WITH_LANGUAGE])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    if request.param in WITH_LANGUAGE:
        pytest.importorskip("transformers")
    family, options = (WITHOUT_LANGUAGE | WITH_LANGUAGE)[request.param]
    return request.param, make_family_folder(tmp_path_factory.mktemp("policy"), family, **options)


def observed(case: str, seed: int = 0) -> tuple[dict[str, np.ndarray], str]:
    observation = make_observation(image=(32, 48), cameras=("top", "left_wrist"), seed=seed)
    return observation, f" {PROMPT} " if case in WITH_LANGUAGE else ""


def prepare_by_lerobot(pipeline: Any, observation: dict[str, np.ndarray], task: str) -> dict[str, Any]:
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    batch = pipeline(prepare_observation_for_inference(dict(observation), torch.device("cpu"), task=task))
    added = {"task", "domain_id"} & batch.keys()
    return {name: batch[name] for name in batch if name.startswith("observation.") or name in added}


def prepare(path: Path, observation: dict[str, np.ndarray], task: str) -> Prepared:
    return TensorPreprocessor(PolicyFolder.load(path))(observation | {"task": task})


def assert_equal(mine: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, list):
        assert mine == theirs, name
        return
    value, expected = materialise(mine), theirs.numpy()
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape), name
    assert value.tobytes() == expected.tobytes(), name


def test_preprocessing_equals_lerobot(case: tuple[str, Path]) -> None:
    name, path = case
    observation, task = observed(name)
    theirs = prepare_by_lerobot(lerobot_pipelines(path)[0], observation, task)
    mine = prepare(path, observation, task).batch
    if name == "smolvla longest":
        # One length for all prompts: LeRobot's tokens, and then padding that the mask takes out.
        length = theirs[TOKENS].shape[1]
        assert mine[TOKENS].shape == mine[MASK].shape == (1, 48)
        assert not mine[MASK][:, length:].any()
        assert (mine[TOKENS][:, length:] == 0).all()
        mine = mine | {key: mine[key][:, :length] for key in (TOKENS, MASK)}
    assert set(mine) == set(theirs)
    for key in theirs:
        assert_equal(mine[key], theirs[key], key)


def test_postprocessing_equals_lerobot(case: tuple[str, Path]) -> None:
    import torch

    name, path = case
    observation, task = observed(name)
    chunk = np.random.default_rng(1).normal(size=(11, 6)).astype(np.float32)
    pre, post = lerobot_pipelines(path)
    prepare_by_lerobot(pre, observation, task)
    theirs = post(torch.from_numpy(chunk.copy())[None])[0].numpy()
    mine = TensorPostprocessor(PolicyFolder.load(path))(chunk, prepare(path, observation, task).context)
    assert mine.tobytes() == theirs.tobytes()
    if name == "pi0 relative":
        relative = TensorPostprocessor(PolicyFolder.load(path))(
            chunk, prepare(path, observation | {"observation.state": np.zeros(6, np.float32)}, task).context
        )
        moved = (mine != relative).any(axis=0)
        assert moved.tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", [{}, {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}])
def test_tokens_equal_those_of_transformers(tmp_path: Path, side: str, config: dict[str, bool]) -> None:
    transformers = pytest.importorskip("transformers")
    from inference_service.core.processing.tokenizer import PromptTokenizer
    from tests.families import make_tokenizer

    make_tokenizer(tmp_path, **config)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    mine = PromptTokenizer(tmp_path, 12, pad_left=side == "left")
    for prompt in ("", "a", "pick up", "<eos>red<pad>", "ünïcödé 🤖", PROMPT * 3):
        expected = theirs(
            [prompt], max_length=12, truncation=True, padding="max_length", padding_side=side, return_tensors="np"
        )
        tokens = mine(prompt)
        assert tokens.ids.tolist() == expected["input_ids"].tolist(), prompt
        assert tokens.mask.tolist() == expected["attention_mask"].astype(bool).tolist(), prompt
        assert tokens.length == len(theirs(prompt)["input_ids"]), prompt


def test_a_step_in_half_precision(tmp_path: Path) -> None:
    """The cast stands before the normaliser in pi0; the state and its reference are half precision from there on."""
    import torch

    pytest.importorskip("transformers")
    path = make_family_folder(tmp_path, "pi0", **RELATIVE)
    file = path / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text())
    (device,) = (step for step in pipeline["steps"] if step["registry_name"] == "device_processor")
    device["config"]["float_dtype"] = "float16"
    file.write_text(json.dumps(pipeline))
    # A dimension whose std is 0 leaves the range of half precision.
    observation, task = observed("pi0")
    observation["observation.state"][-1] = 0.25
    pre, post = lerobot_pipelines(path)
    theirs = prepare_by_lerobot(pre, observation, task)
    with np.errstate(invalid="ignore"):
        prepared = prepare(path, observation, task)
    for key in ("observation.state", "observation.images.top"):
        assert prepared.batch[key].dtype == np.float16
        assert np.array_equal(prepared.batch[key], theirs[key].numpy(), equal_nan=True), key
    chunk = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    mine = TensorPostprocessor(PolicyFolder.load(path))(chunk, prepared.context)
    assert mine.tobytes() == post(torch.from_numpy(chunk)[None])[0].numpy().tobytes()
