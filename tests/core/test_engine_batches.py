"""Several robots' requests at once: who shares a pass with whom, and nobody pays for another's mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import Batch, Feature, FeatureType, Float32
from inference_service.core.engine import InferenceResult, PureInferenceEngine, synthetic_batch
from inference_service.core.errors import EngineFault, InferenceFailed, InvalidObservation, NonFiniteAction
from inference_service.core.policy import NO_CONTEXT, InferenceContext, LeftOver, PolicySpec

STATE, TOKENS, MASK = "observation.state", "observation.language.tokens", "observation.language.attention_mask"
Requests = Sequence[tuple[Batch, InferenceContext]]


class Doubling:
    """Every chunk repeats twice the state. Keeps the size of each pass, 0 for one that came alone."""

    def __init__(self, max_batch: int = 4, **spec: Any) -> None:
        features = {STATE: Feature(STATE, FeatureType.STATE, (2,))} | spec.pop("features", {})
        self.spec = PolicySpec("act", "doubling", "cpu", 3, 2, features, max_batch=max_batch, **spec)
        self.passes: list[int] = []
        self.forgotten: list[str] = []
        self.sessions: list[str] = []
        self.fail: Callable[[Requests], None] = lambda requests: None

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        self.fail([(batch, context)])
        self.passes.append(0)
        self.sessions.append(context.session)
        return np.repeat(2 * batch[STATE], 3, axis=0)

    def predict_action_chunks(self, requests: Requests) -> Sequence[Float32]:
        self.fail(requests)
        self.passes.append(len(requests))
        return [np.repeat(2 * batch[STATE], 3, axis=0) for batch, _ in requests]

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def close(self) -> None:
        pass


def request(value: float, session: str = "", **entries: Any) -> tuple[Batch, InferenceContext]:
    return {STATE: np.full((1, 2), value, np.float32), **entries}, InferenceContext(session=session)


def values(answers: Sequence[Any]) -> list[Any]:
    return [float(a.action[0, 0]) if isinstance(a, InferenceResult) else type(a) for a in answers]


def test_requests_share_passes_and_keep_their_order() -> None:
    policy = Doubling(max_batch=4)
    answers = PureInferenceEngine(policy).infer_many([request(i) for i in range(6)])
    assert values(answers) == [0, 2, 4, 6, 8, 10]
    assert policy.passes == [4, 2]


@pytest.mark.parametrize("policy", [Doubling(max_batch=1), Doubling(max_batch=0)])
def test_a_policy_that_cannot_batch_is_asked_one_by_one(policy: Doubling) -> None:
    assert values(PureInferenceEngine(policy).infer_many([request(1), request(2)])) == [2, 4]
    assert policy.passes == [0, 0]


def test_nothing_asked_nothing_done() -> None:
    policy = Doubling()
    assert PureInferenceEngine(policy).infer_many([]) == []
    assert policy.passes == []


def test_a_bad_request_gets_its_error_and_the_others_their_chunks() -> None:
    policy = Doubling()
    bad = [request(np.nan), ({}, NO_CONTEXT), ({STATE: np.zeros((1, 3), np.float32)}, NO_CONTEXT)]
    answers = PureInferenceEngine(policy).infer_many([request(1), *bad, request(2)])
    assert [type(answer).__name__ for answer in answers] == [
        "InferenceResult",
        "InvalidObservation",
        "MissingObservation",
        "InvalidObservation",
        "InferenceResult",
    ]
    assert policy.passes == [2]


def test_a_failed_pass_is_tried_again_one_by_one() -> None:
    policy = Doubling()

    def refuse_three(requests: Requests) -> None:
        if any(batch[STATE][0, 0] == 3 for batch, _ in requests):
            raise InferenceFailed("not three")

    policy.fail = refuse_three
    assert values(PureInferenceEngine(policy).infer_many([request(1), request(3), request(2)])) == [
        2,
        InferenceFailed,
        4,
    ]


def test_a_runtime_that_is_gone_is_not_asked_again_for_each() -> None:
    policy = Doubling()
    asked: list[int] = []

    def gone(requests: Requests) -> None:
        asked.append(len(requests))
        raise EngineFault("gone")

    policy.fail = gone
    assert values(PureInferenceEngine(policy).infer_many([request(1), request(2)])) == [EngineFault, EngineFault]
    assert asked == [2]


def test_one_chunk_that_is_not_finite_is_one_robots_error() -> None:
    with np.errstate(over="ignore"):
        answers = PureInferenceEngine(Doubling()).infer_many([request(1), request(3e38), request(2)])
    assert values(answers) == [2, NonFiniteAction, 4]


def test_too_few_chunks_are_a_failed_pass() -> None:
    policy = Doubling()
    policy.predict_action_chunks = lambda requests: [np.zeros((3, 2), np.float32)]  # type: ignore[method-assign]
    assert values(PureInferenceEngine(policy).infer_many([request(1), request(2)])) == [2, 4]


def test_other_shapes_take_another_pass() -> None:
    policy = Doubling(features={TOKENS: Feature(TOKENS, FeatureType.LANGUAGE, (8,))})
    short, full = np.zeros((1, 3), np.int64), np.zeros((1, 8), np.int64)
    lengths = [full, short, full, short, full]
    answers = PureInferenceEngine(policy).infer_many([request(i, **{TOKENS: t}) for i, t in enumerate(lengths)])
    assert values(answers) == [0, 2, 4, 6, 8]
    assert policy.passes == [3, 2]


@pytest.mark.parametrize(("n_obs_steps", "passes"), [(1, [4]), (2, [2, 2])])
def test_a_session_is_in_a_pass_once_where_the_policy_looks_back(n_obs_steps: int, passes: list[int]) -> None:
    policy = Doubling(n_obs_steps=n_obs_steps)
    requests = [request(i, session) for i, session in enumerate("abab")]
    assert values(PureInferenceEngine(policy).infer_many(requests)) == [0, 2, 4, 6]
    assert policy.passes == passes


def test_after_its_end_every_request_is_refused() -> None:
    engine = PureInferenceEngine(Doubling())
    engine.close()
    assert values(engine.infer_many([request(1), request(2)])) == [InferenceFailed, InferenceFailed]


def test_left_over_actions_only_where_the_policy_takes_them() -> None:
    batch, _ = request(1)
    context = InferenceContext(left_over=LeftOver(np.zeros((2, 2), np.float32), 1, 2))
    with pytest.raises(InvalidObservation, match="'act' on backend 'doubling' takes no left-over actions"):
        PureInferenceEngine(Doubling()).infer(batch, context)
    engine = PureInferenceEngine(Doubling(supports_rtc=True))
    assert engine.infer(batch, context).action.shape == (3, 2)
    with pytest.raises(InvalidObservation, match="left-over actions have shape"):
        engine.infer(batch, InferenceContext(left_over=LeftOver(np.zeros((4, 2), np.float32), 1, 2)))


def test_warming_up_leaves_no_history() -> None:
    policy = Doubling()
    PureInferenceEngine(policy).warm_up()
    assert policy.forgotten == policy.sessions != [""]


def test_a_session_can_be_forgotten() -> None:
    policy = Doubling()
    engine = PureInferenceEngine(policy)
    engine.forget("robot")
    assert policy.forgotten == ["robot"]


def test_a_made_up_prompt_has_tokens_and_a_mask() -> None:
    features = {name: Feature(name, FeatureType.LANGUAGE, (8,)) for name in (TOKENS, MASK)}
    batch = synthetic_batch(features)
    assert (batch[TOKENS].dtype, batch[TOKENS].shape) == (np.int64, (1, 8))
    assert (batch[MASK].dtype, batch[MASK].tolist()) == (np.bool_, [[True] + [False] * 7])
    engine = PureInferenceEngine(Doubling(features=features))
    engine.warm_up()
    with pytest.raises(InvalidObservation, match=r"tokens': expected shape \(1, 8\), got \(1, 9\)"):
        engine.infer(request(1)[0] | batch | {TOKENS: np.zeros((1, 9), np.int64)})
