"""The queue and the ensembler: what is due when."""

from __future__ import annotations

import numpy as np
import pytest

from inference_service.dispatch.queue import ActionPlan, ActionQueue, Chunk, first_due_tick
from inference_service.dispatch.smoothing import TemporalEnsembler

PLANS = [ActionQueue, TemporalEnsembler]


def chunk(first_tick: int, *values: float, name: str = "c", expires_ns: int = 10**18) -> Chunk:
    return Chunk(name, first_tick, first_tick * 10, expires_ns, np.array(values, float)[:, None])


def drain(plan: ActionPlan, ticks: range) -> list[float | None]:
    steps = [plan.take(t) for t in ticks]
    return [None if s is None else round(float(s.action[0]), 6) for s in steps]


@pytest.mark.parametrize("plan_type", PLANS)
def test_each_action_is_due_at_its_own_tick(plan_type: type[ActionPlan]) -> None:
    plan = plan_type()
    assert plan.push(chunk(5, 1, 2, 3), 5) == 3
    assert drain(plan, range(4, 9)) == [None, 1, 2, 3, None]


@pytest.mark.parametrize("plan_type", PLANS)
def test_a_late_chunk_loses_exactly_the_elapsed_steps(plan_type: type[ActionPlan]) -> None:
    plan = plan_type()
    assert plan.push(chunk(5, 1, 2, 3, 4), 7) == 2
    assert drain(plan, range(7, 10)) == [3, 4, None]


@pytest.mark.parametrize("plan_type", PLANS)
@pytest.mark.parametrize("next_tick", [8, 9, 100])
def test_a_chunk_whose_steps_have_all_elapsed_changes_nothing(plan_type: type[ActionPlan], next_tick: int) -> None:
    plan = plan_type()
    plan.push(chunk(next_tick, 7, 8), next_tick)
    assert plan.push(chunk(5, 1, 2, 3), next_tick) == 0
    assert plan.remaining(next_tick) == 2
    assert drain(plan, range(next_tick, next_tick + 2)) == [7, 8]


@pytest.mark.parametrize("plan_type", PLANS)
def test_remaining_counts_steps_still_to_come(plan_type: type[ActionPlan]) -> None:
    plan = plan_type()
    assert plan.remaining(0) == 0
    plan.push(chunk(5, 1, 2, 3), 5)
    assert [plan.remaining(t) for t in (3, 5, 6, 8, 20)] == [3, 3, 2, 0, 0]
    plan.clear()
    assert plan.remaining(5) == 0
    assert plan.take(5) is None


@pytest.mark.parametrize("plan_type", PLANS)
def test_an_expired_chunk_is_forgotten_at_once(plan_type: type[ActionPlan]) -> None:
    plan = plan_type()
    plan.push(chunk(5, 1, 2, 3, expires_ns=1000), 5)
    assert plan.expire(1000) == 0
    assert plan.expire(1001) == 1
    assert plan.remaining(5) == 0
    assert plan.take(5) is None


def test_a_newer_chunk_replaces_what_was_left() -> None:
    plan = ActionQueue()
    plan.push(chunk(0, 1, 2, 3, 4), 0)
    plan.push(chunk(2, 30, 40, 50), 3)
    assert drain(plan, range(3, 6)) == [40, 50, None]


def test_a_single_action_is_due_one_tick_after_its_request() -> None:
    assert first_due_tick(7, 1) == 8
    assert first_due_tick(7, 2) == 7


def test_a_step_names_its_chunk_row_and_oldest_observation() -> None:
    plan = TemporalEnsembler()
    plan.push(chunk(0, 1, 2, 3, name="old"), 0)
    plan.push(chunk(2, 5, 6, name="new"), 2)
    step = plan.take(2)
    assert step is not None
    assert (step.request_id, step.index, step.observed_ns) == ("new", 0, 0)
