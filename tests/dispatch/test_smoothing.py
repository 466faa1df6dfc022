"""Temporal ensembling: the formula of ACT, LeRobot's own class, and what its running mean cannot do."""

from __future__ import annotations

import numpy as np
import pytest

from inference_service.dispatch.queue import ActionQueue, Chunk
from inference_service.dispatch.smoothing import DEFAULT_COEFF, GREATEST_COEFF, TemporalEnsembler


def chunk(first_tick: int, actions: np.ndarray, expires_ns: int = 10**18) -> Chunk:
    return Chunk(f"c{first_tick}", first_tick, first_tick, expires_ns, actions.astype(np.float64))


@pytest.mark.parametrize("coeff", [0.01, 0.0, -0.1, 0.5])
def test_equals_lerobots_ensembler(coeff: float) -> None:
    pytest.importorskip("lerobot")
    import torch
    from lerobot.policies.act.modeling_act import ACTTemporalEnsembler

    rng = np.random.default_rng(3)
    theirs = ACTTemporalEnsembler(coeff, chunk_size=12)
    ours = TemporalEnsembler(coeff)
    for tick in range(40):
        actions = rng.normal(size=(12, 6)).astype(np.float32)
        expected = theirs.update(torch.from_numpy(actions)[None])[0].numpy()
        ours.push(chunk(tick, actions), tick)
        step = ours.take(tick)
        assert step is not None
        np.testing.assert_allclose(step.action, expected, rtol=0, atol=2e-6)


def test_older_predictions_weigh_more_by_acts_formula() -> None:
    plan = TemporalEnsembler(0.01)
    plan.push(chunk(0, np.full((6, 1), 1.0)), 0)
    plan.push(chunk(2, np.full((6, 1), 2.0)), 2)
    plan.push(chunk(4, np.full((6, 1), 4.0)), 4)
    w = np.exp(-0.01 * np.arange(3))
    step = plan.take(5)
    assert step is not None
    assert step.action[0] == pytest.approx((w * [1, 2, 4]).sum() / w.sum(), abs=1e-12)
    assert DEFAULT_COEFF == 0.01


@pytest.mark.parametrize("coeff", [-GREATEST_COEFF, GREATEST_COEFF])
def test_no_coefficient_makes_an_action_that_is_not_finite(coeff: float) -> None:
    plan = TemporalEnsembler(coeff)
    plan.push(chunk(0, np.full((6, 1), 1.0)), 0)
    plan.push(chunk(1, np.full((6, 1), 2.0)), 1)
    plan.push(chunk(2, np.full((6, 1), 4.0)), 2)
    step = plan.take(3)
    assert step is not None
    assert step.action.tolist() == [4.0 if coeff < 0 else 1.0]


def test_a_prediction_too_old_leaves_the_mean_without_a_trace() -> None:
    plan = TemporalEnsembler(0.01)
    plan.push(chunk(0, np.full((6, 1), 1.0), expires_ns=100), 0)
    plan.push(chunk(2, np.full((6, 1), 2.0), expires_ns=200), 2)
    assert plan.expire(150) == 1
    step = plan.take(3)
    assert step is not None
    assert step.action[0] == 2.0
    assert step.observed_ns == 2


def test_memory_is_bounded_by_what_is_still_to_come() -> None:
    plan = TemporalEnsembler()
    for tick in range(500):
        plan.push(chunk(tick, np.zeros((10, 1))), tick)
        plan.take(tick)
        assert len(plan.chunks) <= 10


def test_what_is_planned_survives_the_switch_both_ways() -> None:
    queue = ActionQueue()
    queue.push(chunk(0, np.arange(5.0)[:, None]), 0)
    blended = TemporalEnsembler(0.01, queue.chunks)
    assert blended.remaining(2) == 3
    blended.push(chunk(2, np.arange(10.0, 15.0)[:, None]), 2)
    back = ActionQueue(blended.chunks)
    step = back.take(3)
    assert step is not None
    assert step.action[0] == 11.0
