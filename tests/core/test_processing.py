"""The step registry, and what the steps refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inference_service.core.batch import AffineImage
from inference_service.core.errors import MissingStatistics, PolicyFolderError, UnsupportedStep
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.core.processing import ProcessorStep, Transition, register, step
from tests.policies import make_observation, make_plain_folder

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
STATE = "policy_preprocessor_step_3_normalizer_processor.safetensors"
POST_STATE = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_plain_folder(tmp_path / "policy")


def edit_step(path: Path, file: str, index: int, **changes: Any) -> None:
    pipeline = json.loads((path / file).read_text())
    pipeline["steps"][index] |= changes
    (path / file).write_text(json.dumps(pipeline))


def edit_config(path: Path, index: int, **changes: Any) -> None:
    config = json.loads((path / PRE).read_text())["steps"][index]["config"]
    edit_step(path, PRE, index, config=config | changes)


def edit_state(path: Path, name: str, changes: dict[str, np.ndarray | None]) -> None:
    state = load_file(path / name) | changes
    save_file({key: value for key, value in state.items() if value is not None}, path / name)


def build(path: Path) -> None:
    folder = PolicyFolder.load(path)
    TensorPreprocessor(folder)
    TensorPostprocessor(folder)


def without_lerobot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.setitem(sys.modules, "draccus", None)


def test_an_unknown_step_is_named_with_its_file_and_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_lerobot(monkeypatch)
    edit_step(path, PRE, 1, registry_name="groot_n1_7_vlm_encode_v1")
    with pytest.raises(UnsupportedStep) as caught:
        build(path)
    for word in ("policy_preprocessor.json: step 1 'groot_n1_7_vlm_encode_v1'", "inference-service[lerobot]"):
        assert word in str(caught.value)


def test_what_is_wrong_besides_an_unknown_step_is_found_first(path: Path) -> None:
    edit_step(path, PRE, 1, registry_name="groot_n1_7_vlm_encode_v1")
    edit_state(path, STATE, {"observation.state.mean": None})
    with pytest.raises(MissingStatistics):
        build(path)


def test_a_step_of_a_class_outside_the_registry_is_not_imported(path: Path) -> None:
    edit_step(path, PRE, 1, registry_name="x")
    pipeline = json.loads((path / PRE).read_text())
    pipeline["steps"][1] = {"class": "os.system", "config": {}}
    (path / PRE).write_text(json.dumps(pipeline))
    with pytest.raises(UnsupportedStep, match=r"os\.system.*code from outside LeRobot"):
        build(path)


@pytest.mark.parametrize("index", range(4))
def test_an_option_that_would_be_ignored_is_refused(path: Path, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_lerobot(monkeypatch)
    edit_config(path, index, clip=True)
    with pytest.raises(UnsupportedStep, match=f"step {index} .*option clip"):
        build(path)


def test_bfloat16_cannot_be_computed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_lerobot(monkeypatch)
    edit_config(path, 2, float_dtype="bfloat16")
    with pytest.raises(UnsupportedStep, match="bfloat16"):
        build(path)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (STATE, "observation.state.mean"),
        (STATE, "observation.state.std"),
        (STATE, "observation.images.wrist.mean"),
        (POST_STATE, "action.std"),
    ],
)
def test_missing_statistics_name_file_feature_and_mode(path: Path, file: str, key: str) -> None:
    """LeRobot would run the feature un-normalised without a word."""
    edit_state(path, file, {key: None})
    with pytest.raises(MissingStatistics) as caught:
        build(path)
    for word in (file, key, "MEAN_STD", key.rpartition(".")[0]):
        assert word in str(caught.value)


def test_a_normaliser_without_state_file(path: Path) -> None:
    edit_step(path, PRE, 3, state_file=None)
    with pytest.raises(MissingStatistics, match=r"policy_preprocessor\.json.*no state_file"):
        build(path)


def test_statistics_that_nobody_uses_may_be_missing_or_broken(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy", norm={"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MIN_MAX"})
    nan = np.full((3, 1, 1), np.nan, np.float32)
    # The preprocessor never meets an action.
    edit_state(path, STATE, {"observation.images.top.mean": nan, "action.min": None, "observation.state.q01": None})
    build(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_statistics_that_are_not_finite(path: Path, bad: float) -> None:
    edit_state(path, STATE, {"observation.state.std": np.array([1, 1, bad, 1, 1, 1], np.float32)})
    with pytest.raises(PolicyFolderError, match=rf"{STATE}.*observation\.state\.std.*not finite"):
        build(path)


def test_statistics_with_a_range_below_zero(path: Path) -> None:
    edit_state(path, STATE, {"observation.state.std": np.array([1, 1, -0.5, 1, 1, 1], np.float32)})
    with pytest.raises(PolicyFolderError, match=rf"{STATE}.*observation\.state\.std.*below 0 at \[2\]; compute"):
        build(path)


def test_a_largest_value_below_the_smallest(tmp_path: Path) -> None:
    path = make_plain_folder(tmp_path / "policy", norm={"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MIN_MAX"})
    edit_state(path, POST_STATE, {"action.max": np.full(6, -100, np.float32)})
    with pytest.raises(PolicyFolderError, match=rf"{POST_STATE}.*'action\.min' and 'action\.max'.*below 0"):
        build(path)


def test_statistics_without_a_range_are_said_and_computed_as_lerobot_does(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_state(path, STATE, {"observation.state.std": np.array([1, 1, 0, 1, 1, 0], np.float32)})
    folder = PolicyFolder.load(path)
    observation = make_observation()
    state = TensorPreprocessor(folder)(observation).batch["observation.state"]
    mean = load_file(path / STATE)["observation.state.mean"]
    assert state[0, 2] == (observation["observation.state"][2] - mean[2]) / np.float32(1e-8)
    (record,) = caplog.records
    for word in (STATE, "observation.state.std", "no range at [2, 5]", "Keep it still, or train without it"):
        assert word in record.getMessage()


@pytest.mark.parametrize(
    ("key", "shape"),
    [("observation.state.mean", (7,)), ("observation.state.mean", (1,)), ("observation.images.top.std", (3, 96, 128))],
)
def test_statistics_of_another_shape(path: Path, key: str, shape: tuple[int, ...]) -> None:
    edit_state(path, STATE, {key: np.ones(shape, np.float32)})
    with pytest.raises(PolicyFolderError, match=r"has shape .*, expected"):
        build(path)


def test_flat_image_statistics_are_accepted(path: Path) -> None:
    mean = load_file(path / STATE)["observation.images.top.mean"].reshape(3)
    before = TensorPreprocessor(PolicyFolder.load(path))(make_observation()).batch
    edit_state(path, STATE, {"observation.images.top.mean": mean})
    after = TensorPreprocessor(PolicyFolder.load(path))(make_observation()).batch
    assert after["observation.images.top"].norm == before["observation.images.top"].norm


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"eps": "small"}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"norm_map": {"STATE": "LOG"}}, "norm_map.STATE"),
        ({"features": {"observation.state": {"type": "STATE"}}}, "features.observation.state"),
        ({"normalize_observation_keys": "observation.state"}, "normalize_observation_keys"),
    ],
)
def test_a_normaliser_configured_wrong(path: Path, changes: dict[str, Any], word: str) -> None:
    edit_config(path, 3, **changes)
    with pytest.raises(PolicyFolderError, match=word):
        build(path)


def test_only_the_selected_observations_are_normalised(path: Path) -> None:
    edit_config(path, 3, normalize_observation_keys=["observation.images.top"])
    observation = make_observation()
    batch = TensorPreprocessor(PolicyFolder.load(path))(observation).batch
    assert np.array_equal(batch["observation.state"][0], observation["observation.state"])
    assert batch["observation.images.top"].norm.kind == "mean_std"
    assert batch["observation.images.wrist"].norm == ImageNorm()


def test_eps_is_the_steps_own(path: Path) -> None:
    edit_config(path, 3, eps=0.5)
    observation = make_observation()
    state = load_file(path / STATE)
    expected = (observation["observation.state"] - state["observation.state.mean"]) / (
        state["observation.state.std"] + np.float32(0.5)
    )
    batch = TensorPreprocessor(PolicyFolder.load(path))(observation).batch
    assert np.array_equal(batch["observation.state"][0], expected)


def test_renaming_finds_the_robots_own_names(path: Path) -> None:
    edit_config(path, 0, rename_map={"observation.images.front": "observation.images.top"})
    observation = make_observation()
    plain = TensorPreprocessor(PolicyFolder.load(path))
    expected = plain(observation).batch  # the policy's own name is accepted too, as in LeRobot
    observation["observation.images.front"] = observation.pop("observation.images.top")
    batch = plain(observation).batch
    assert set(batch) == set(expected)
    assert np.shares_memory(batch["observation.images.top"].pixels, observation["observation.images.front"])


def test_two_names_swapped(path: Path) -> None:
    top, wrist = "observation.images.top", "observation.images.wrist"
    edit_config(path, 0, rename_map={top: wrist, wrist: top})
    observation = make_observation()
    batch = TensorPreprocessor(PolicyFolder.load(path))(observation).batch
    assert np.shares_memory(batch[top].pixels, observation[wrist])
    assert np.shares_memory(batch[wrist].pixels, observation[top])


def test_a_second_normaliser_works_on_floats(path: Path) -> None:
    pipeline = json.loads((path / PRE).read_text())
    pipeline["steps"].append(pipeline["steps"][3])
    (path / PRE).write_text(json.dumps(pipeline))
    batch = TensorPreprocessor(PolicyFolder.load(path))(make_observation()).batch
    image = batch["observation.images.top"]
    assert not isinstance(image, AffineImage)
    assert image.shape == (1, 3, 96, 128)


def test_a_new_step_is_one_class_and_may_remember_in_the_requests_context(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As relative actions will: what the preprocessor saw travels to the postprocessor of the same request."""
    monkeypatch.setattr(step, "_STEPS", dict(step._STEPS))

    @register("test_remember")
    class Remember(ProcessorStep):
        @classmethod
        def build(cls, entry: Any, features: Any) -> Remember:
            return cls()

        def __call__(self, transition: Transition) -> None:
            if transition.action is None:
                transition.context["offset"] = transition.observation["observation.state"].copy()
            else:
                transition.action = transition.action + transition.context["offset"][:, None]

    for file, index in ((PRE, 0), (POST, 1)):
        pipeline = json.loads((path / file).read_text())
        pipeline["steps"].insert(index, {"registry_name": "test_remember"})
        (path / file).write_text(json.dumps(pipeline))
    folder = PolicyFolder.load(path)
    pre, post = TensorPreprocessor(folder), TensorPostprocessor(folder)
    observations = [make_observation(seed=seed) for seed in (1, 2)]
    # Both requests are under way before the first is answered.
    contexts = [pre(observation).context for observation in observations]
    chunk = np.zeros((20, 6), np.float32)
    first, second = (post(chunk, context) for context in contexts)
    states = [observation["observation.state"] for observation in observations]
    assert np.allclose(first - second, states[0] - states[1], atol=1e-6)


def test_a_name_has_one_owner() -> None:
    with pytest.raises(ValueError, match="claimed by ToBatch and ToBatch"):
        register("to_batch_processor")(type(step._STEPS["to_batch_processor"].__name__, (ProcessorStep,), {}))
