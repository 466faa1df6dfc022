"""Pre- and postprocessing against LeRobot's own pipelines, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.batch import AffineImage, materialise
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from tests.policies import make_act_folder, make_observation, make_plain_folder

pytest.importorskip("lerobot")

MIXED = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "MIN_MAX"}
NORMS = ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY", MIXED]


@pytest.fixture(scope="module", params=NORMS, ids=lambda norm: norm if isinstance(norm, str) else "mixed")
def act_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_act_folder(tmp_path_factory.mktemp("act"), norm=request.param, weights=False)


def lerobot_pipelines(path: Path):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(path)
    return make_pre_post_processors(config, pretrained_path=str(path))


def test_preprocessing_equals_lerobot(act_folder: Path) -> None:
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    observation = make_observation()
    theirs = prepare_observation_for_inference(dict(observation), torch.device("cpu"), task="")
    theirs = lerobot_pipelines(act_folder)[0](theirs)
    prepared = TensorPreprocessor(PolicyFolder.load(act_folder))(observation | {"task": ""})

    assert prepared.batch["task"] == theirs["task"]
    names = [name for name in theirs if name.startswith("observation.")]
    assert set(prepared.batch) == {*names, "task"}
    for name in names:
        mine = materialise(prepared.batch[name])
        assert mine.dtype == np.float32
        assert np.array_equal(mine.view(np.uint32), theirs[name].numpy().view(np.uint32)), name


def test_images_stay_pixels_until_somebody_needs_floats(act_folder: Path) -> None:
    batch = TensorPreprocessor(PolicyFolder.load(act_folder))(make_observation()).batch
    assert isinstance(batch["observation.images.top"], AffineImage)
    assert isinstance(batch["observation.images.wrist"], AffineImage)


@pytest.mark.parametrize("steps", [1, 20])
def test_postprocessing_equals_lerobot(act_folder: Path, steps: int) -> None:
    import torch

    chunk = np.random.default_rng(1).normal(size=(steps, 6)).astype(np.float32)
    theirs = lerobot_pipelines(act_folder)[1](torch.from_numpy(chunk.copy())[None])[0].numpy()
    mine = TensorPostprocessor(PolicyFolder.load(act_folder))(chunk)
    assert np.array_equal(mine.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_cast_before_normalisation_is_honoured(tmp_path: Path, dtype: str) -> None:
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    path = make_act_folder(tmp_path, weights=False)
    file = path / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text())
    pipeline["steps"][2]["config"]["float_dtype"] = dtype
    file.write_text(json.dumps(pipeline))
    # A dimension whose std is 0 leaves the range of half precision.
    observation = make_observation() | {"observation.state": np.full(6, 0.25, np.float32)}

    theirs = lerobot_pipelines(path)[0](prepare_observation_for_inference(dict(observation), torch.device("cpu")))
    with np.errstate(invalid="ignore"):
        mine = TensorPreprocessor(PolicyFolder.load(path))(observation).batch
    for name in observation:
        value = materialise(mine[name])
        assert value.dtype == np.dtype(dtype)
        assert np.array_equal(value, theirs[name].numpy(), equal_nan=True), name


def test_files_written_by_hand_are_what_lerobot_writes(tmp_path: Path) -> None:
    """The other tests run on hand-written folders where they can; this keeps those honest."""
    theirs = make_act_folder(tmp_path / "theirs", weights=False)
    mine = make_plain_folder(tmp_path / "mine")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        assert json.loads((mine / name).read_text()) == json.loads((theirs / name).read_text())
    a, b = PolicyFolder.load(mine), PolicyFolder.load(theirs)
    for step, other in zip(a.preprocessor.steps, b.preprocessor.steps, strict=True):
        assert set(step.state) == set(other.state)
        assert all(np.array_equal(step.state[key], other.state[key]) for key in step.state)
