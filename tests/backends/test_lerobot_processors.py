"""Policies with a step that does not run in numpy: LeRobot's own pipelines take over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.errors import UnsupportedStep
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from tests.families import lerobot_pipelines
from tests.policies import make_observation, make_plain_folder

pytest.importorskip("lerobot")

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
STEP = "test_adds_the_last_state"
STATE = "observation.state"


@pytest.fixture(autouse=True)
def remembering_step() -> Any:
    """A step that numpy does not know and that, like LeRobot's relative actions, keeps the last state in itself."""
    from lerobot.processor import ProcessorStep, ProcessorStepRegistry

    if STEP not in ProcessorStepRegistry.list():

        @ProcessorStepRegistry.register(STEP)
        class RemembersState(ProcessorStep):
            last = None

            def __call__(self, transition: Any) -> Any:
                self.last = transition["observation"][STATE]
                return transition

            def transform_features(self, features: Any) -> Any:
                return features


def edit(path: Path, file: str, insert: dict[str, Any] | None = None, **device: Any) -> None:
    pipeline = json.loads((path / file).read_text())
    for step in pipeline["steps"]:
        if step["registry_name"] == "device_processor":
            step["config"] |= {"device": "cuda"} | device
    if insert is not None:
        pipeline["steps"].append(insert)
    (path / file).write_text(json.dumps(pipeline))


def theirs(path: Path, observation: dict[str, np.ndarray]) -> Any:
    import torch
    from lerobot.policies.utils import prepare_observation_for_inference

    return lerobot_pipelines(path)[0](prepare_observation_for_inference(dict(observation), torch.device("cpu")))


def test_bfloat16_is_computed_by_lerobot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_plain_folder(tmp_path / "policy")
    edit(path, PRE, float_dtype="bfloat16")
    observation = make_observation()
    with caplog.at_level("INFO"):
        batch = TensorPreprocessor(PolicyFolder.load(path))(observation).batch
    assert "processors run by LeRobot itself" in caplog.text
    edit(path, PRE, device="cpu")  # as it must be for LeRobot itself
    expected = theirs(path, observation)
    assert set(batch) == {"task", *observation}
    for name in observation:
        assert np.array_equal(batch[name], expected[name].float().numpy()), name


def test_what_steps_remember_belongs_to_the_request(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy")
    pipeline = json.loads((path / PRE).read_text())
    relative = {"registry_name": "relative_actions_processor", "config": {"enabled": True}}
    pipeline["steps"][1:1] = [relative, {"registry_name": STEP, "config": {}}]
    (path / PRE).write_text(json.dumps(pipeline))
    edit(path, POST, {"registry_name": "absolute_actions_processor", "config": {"enabled": True}})
    folder = PolicyFolder.load(path)
    pre, post = TensorPreprocessor(folder), TensorPostprocessor(folder)
    states = [np.full(6, value, np.float32) for value in (1, 2)]
    contexts = [pre(make_observation() | {STATE: state}).context for state in states]
    chunk = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    first, second = (post(chunk, context) for context in contexts)
    assert np.allclose(second - first, 1, atol=1e-5)


def test_a_step_that_lerobot_does_not_know_either(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy")
    edit(path, PRE, {"registry_name": "step_of_the_future", "config": {}})
    with pytest.raises(UnsupportedStep, match=r"step 4 'step_of_the_future'.*LeRobot cannot run its processors either"):
        TensorPreprocessor(PolicyFolder.load(path))


def test_a_batch_of_lerobots_reaches_the_engine(tmp_path: Path) -> None:
    from inference_service.core.engine import check_batch

    path = make_plain_folder(tmp_path / "policy")
    edit(path, PRE, {"registry_name": STEP, "config": {}})
    folder = PolicyFolder.load(path)
    check_batch(TensorPreprocessor(folder)(make_observation()).batch, folder.config.input_features)
