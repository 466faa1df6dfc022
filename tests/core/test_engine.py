"""The engine's checks on either side of the policy, its lock and its end; the whole chain by reference."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import AffineImage, Batch, Float32
from inference_service.core.coordinator import InferenceCoordinator
from inference_service.core.engine import PureInferenceEngine, synthetic_batch
from inference_service.core.errors import (
    EngineFault,
    InferenceFailed,
    InvalidObservation,
    MissingObservation,
    NonFiniteAction,
)
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec, PolicyWrapper
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import Prepared, TensorPreprocessor
from tests.policies import make_observation, make_plain_folder

TOP, STATE = "observation.images.top", "observation.state"


class RecordingPolicy:
    """Answers ``action`` and keeps what it was given, by reference."""

    def __init__(self, folder: PolicyFolder, action: Any = None) -> None:
        config = folder.config
        self.spec = PolicySpec("act", "recording", "cpu", config.chunk_size, config.action_dim, config.input_features)
        shape = (config.chunk_size, config.action_dim)
        self.action = (
            np.linspace(-1, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape) if action is None else action
        )
        self.batches: list[Batch] = []
        self.closed = 0
        self.busy = 0

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        self.busy += 1
        assert self.busy == 1
        time.sleep(0.002)
        self.busy -= 1
        self.batches.append(batch)
        return self.action

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PolicyFolder:
    return PolicyFolder.load(make_plain_folder(tmp_path_factory.mktemp("policy")))


@pytest.fixture
def policy(folder: PolicyFolder) -> RecordingPolicy:
    return RecordingPolicy(folder)


@pytest.fixture
def engine(policy: RecordingPolicy) -> PureInferenceEngine:
    assert isinstance(policy, PolicyWrapper)
    return PureInferenceEngine(policy)


@pytest.fixture
def batch(folder: PolicyFolder) -> Batch:
    return TensorPreprocessor(folder)(make_observation()).batch


def test_infer_gives_the_chunk_and_its_time(engine: PureInferenceEngine, policy: RecordingPolicy, batch: Batch) -> None:
    result = engine.infer(batch)
    assert np.array_equal(result.action, policy.action)
    assert result.action.dtype == np.float32
    assert result.inference_ms >= 2
    assert policy.batches[0] is batch


def test_an_unnormalised_prompt_and_tokens_may_travel_along(engine: PureInferenceEngine, batch: Batch) -> None:
    engine.infer(batch | {"task": ["go"], "observation.language.tokens": np.zeros((1, 48), np.int64)})


def test_floats_instead_of_affine_images(engine: PureInferenceEngine, batch: Batch) -> None:
    engine.infer(batch | {TOP: batch[TOP].materialise()})


def test_torch_tensors_are_accepted_and_checked(engine: PureInferenceEngine, batch: Batch) -> None:
    torch = pytest.importorskip("torch")
    engine.infer(batch | {STATE: torch.zeros(1, 6)})
    with pytest.raises(InvalidObservation, match="NaN"):
        engine.infer(batch | {STATE: torch.full((1, 6), torch.nan)})
    with pytest.raises(InvalidObservation, match="shape"):
        engine.infer(batch | {STATE: torch.zeros(6)})


def test_a_missing_feature_is_named(engine: PureInferenceEngine, batch: Batch) -> None:
    del batch[TOP]
    with pytest.raises(MissingObservation, match=rf"lacks {TOP}"):
        engine.infer(batch)


def with_nan(shape: tuple[int, ...]) -> Float32:
    value = np.zeros(shape, np.float32)
    value.flat[-1] = np.nan
    return value


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("observation.images.side", np.zeros((1, 3, 96, 128), np.float32), "no input observation.images.side"),
        ("task.request_id", ["1"], "no input task.request_id"),
        (STATE, np.zeros((1, 7), np.float32), r"\(1, 6\), got \(1, 7\)"),
        (STATE, np.zeros((2, 6), np.float32), r"\(1, 6\), got \(2, 6\)"),
        (STATE, np.zeros(6, np.float32), r"\(1, 6\), got \(6,\)"),
        (STATE, np.zeros((1, 6), np.uint8), "expected floats, got uint8"),
        (STATE, ["0"], r"got \(\) \(list\)"),
        (STATE, with_nan((1, 6)), "NaN"),
        (STATE, np.full((1, 6), -np.inf, np.float32), "infinity"),
        (TOP, with_nan((1, 3, 96, 128)), "NaN"),
        (TOP, np.zeros((1, 3, 96, 128), np.uint8), "expected floats, got uint8"),
        (TOP, AffineImage(np.zeros((128, 96, 3), np.uint8)), r"got \(1, 3, 128, 96\) \(AffineImage\)"),
        (TOP, AffineImage(np.zeros((96, 128, 3), np.uint8), ImageNorm("mean_std", (np.nan,) * 3, (1,) * 3)), "NaN"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    engine: PureInferenceEngine, policy: RecordingPolicy, batch: Batch, name: str, value: Any, words: str
) -> None:
    with pytest.raises(InvalidObservation, match=words):
        engine.infer(batch | {name: value})
    assert policy.batches == []


def test_large_finite_values_are_finite(engine: PureInferenceEngine, batch: Batch) -> None:
    """Their sum is not: the quick check must not be the last word."""
    engine.infer(batch | {STATE: np.full((1, 6), 3e38, np.float32)})


@pytest.mark.parametrize("shape", [(19, 6), (20, 7), (1, 20, 6), (20,)])
def test_an_answer_of_another_shape_is_refused(folder: PolicyFolder, batch: Batch, shape: tuple[int, ...]) -> None:
    engine = PureInferenceEngine(RecordingPolicy(folder, np.zeros(shape, np.float32)))
    with pytest.raises(InferenceFailed, match=r"recording backend returned .*expected \(20, 6\)"):
        engine.infer(batch)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_refused(folder: PolicyFolder, batch: Batch, bad: float) -> None:
    action = np.zeros((20, 6), np.float32)
    action[7, 3] = bad
    with pytest.raises(NonFiniteAction, match=f"{bad} at step 7, dimension 3"):
        PureInferenceEngine(RecordingPolicy(folder, action)).infer(batch)


def test_warm_up_uses_the_real_shapes(
    engine: PureInferenceEngine, policy: RecordingPolicy, folder: PolicyFolder
) -> None:
    assert engine.warm_up().action.shape == (20, 6)
    shapes = {name: value.shape for name, value in policy.batches[0].items() if name != "task"}
    assert shapes == {name: (1, *feature.shape) for name, feature in folder.config.input_features.items()}


def test_one_inference_at_a_time(engine: PureInferenceEngine, policy: RecordingPolicy, batch: Batch) -> None:
    threads = [threading.Thread(target=engine.infer, args=(batch,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    # The policy asserts that it is alone; a failed one records nothing.
    assert len(policy.batches) == 4


def test_close_ends_the_policy_once(engine: PureInferenceEngine, policy: RecordingPolicy, batch: Batch) -> None:
    engine.close()
    engine.close()
    assert policy.closed == 1
    with pytest.raises(InferenceFailed, match="closed"):
        engine.infer(batch)


def test_a_failed_inference_does_not_block_the_next(folder: PolicyFolder, batch: Batch) -> None:
    policy = RecordingPolicy(folder, np.zeros((1, 1), np.float32))
    engine = PureInferenceEngine(policy)
    with pytest.raises(InferenceFailed):
        engine.infer(batch)
    policy.action = np.zeros((20, 6), np.float32)
    assert engine.infer(batch).action.shape == (20, 6)


def test_the_chain_passes_tensors_by_reference(folder: PolicyFolder, policy: RecordingPolicy) -> None:
    prepared: list[Prepared] = []

    class Listening(TensorPreprocessor):
        def __call__(self, observation: Any) -> Prepared:
            prepared.append(super().__call__(observation))
            return prepared[-1]

    observation = make_observation()
    coordinator = InferenceCoordinator(Listening(folder), PureInferenceEngine(policy), TensorPostprocessor(folder))
    coordinator.infer(observation)
    (given,), (made,) = policy.batches, prepared
    assert np.shares_memory(given[STATE], made.batch[STATE])
    for name in (TOP, "observation.images.wrist"):
        assert np.shares_memory(given[name].pixels, made.batch[name].pixels)
        assert np.shares_memory(given[name].pixels, observation[name])


def test_the_chain_gives_robot_units_and_times(folder: PolicyFolder, policy: RecordingPolicy) -> None:
    post = TensorPostprocessor(folder)
    result = InferenceCoordinator(TensorPreprocessor(folder), PureInferenceEngine(policy), post).infer(
        make_observation()
    )
    assert np.array_equal(result.actions, post(policy.action))
    assert not np.array_equal(result.actions, policy.action)
    assert list(result.timing_ms) == ["preprocess", "inference", "postprocess", "total"]
    assert result.timing_ms["inference"] >= 2
    parts = sum(result.timing_ms[stage] for stage in ("preprocess", "inference", "postprocess"))
    assert result.timing_ms["total"] == pytest.approx(parts)


@pytest.mark.parametrize("shape", [(20, 5), (20,), (1, 20, 6), (0, 6)])
def test_the_postprocessor_refuses_another_shape(folder: PolicyFolder, shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceFailed, match=r"expected an action chunk \(n, 6\)"):
        TensorPostprocessor(folder)(np.zeros(shape, np.float32))


def test_the_postprocessor_refuses_what_is_not_finite(folder: PolicyFolder) -> None:
    with pytest.raises(NonFiniteAction, match="the policy's action is nan at step 19, dimension 5"):
        TensorPostprocessor(folder)(with_nan((20, 6)))


def test_the_postprocessor_refuses_what_overflows_in_robot_units(tmp_path: Path) -> None:
    folder = PolicyFolder.load(make_plain_folder(tmp_path, norm="QUANTILES"))
    chunk = np.full((20, 6), 3.4e38, np.float32)
    with np.errstate(over="ignore"), pytest.raises(NonFiniteAction, match="robot units"):
        TensorPostprocessor(folder)(chunk)


def test_the_postprocessor_leaves_its_input_alone(folder: PolicyFolder, policy: RecordingPolicy) -> None:
    before = policy.action.copy()
    TensorPostprocessor(folder)(policy.action)
    assert np.array_equal(policy.action, before)


def test_synthetic_batches_are_valid_batches(folder: PolicyFolder, engine: PureInferenceEngine) -> None:
    engine.infer(synthetic_batch(folder.config.input_features))


class FaultyPolicy(RecordingPolicy):
    """Its runtime is gone until it was started again, which fails once."""

    def __init__(self, folder: PolicyFolder) -> None:
        super().__init__(folder)
        self.obstacles = ["no memory"]
        self.gone = True

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        if self.gone:
            raise EngineFault("the device was lost")
        return super().predict_action_chunk(batch, context)

    def recover(self) -> None:
        if self.obstacles:
            raise EngineFault(self.obstacles.pop())
        self.gone = False


def test_a_runtime_that_is_gone_is_started_again_and_warmed_up(folder: PolicyFolder) -> None:
    policy = FaultyPolicy(folder)
    engine = PureInferenceEngine(policy)
    with pytest.raises(EngineFault, match="device was lost"):
        engine.infer(synthetic_batch(folder.config.input_features))
    with pytest.raises(EngineFault, match="no memory"):
        engine.recover()
    assert np.array_equal(engine.recover().action, policy.action) and len(policy.batches) == 1
    engine.close()
    with pytest.raises(EngineFault, match="closed"):
        engine.recover()


def test_a_policy_that_cannot_be_started_again_says_so(policy: RecordingPolicy) -> None:
    with pytest.raises(EngineFault, match="'recording' starts again only with a new process"):
        PureInferenceEngine(policy).recover()
