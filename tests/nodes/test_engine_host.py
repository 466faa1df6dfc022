"""The life of an engine in a process: which errors are faults, and how it comes back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import Batch, Feature, FeatureType, Float32
from inference_service.core.engine import InferenceResult
from inference_service.core.errors import (
    EngineFault,
    EngineUnavailable,
    InferenceFailed,
    InvalidObservation,
    ModelLoadFailed,
    NonFiniteAction,
)
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec, PolicyWrapper
from inference_service.nodes.engine_host import EngineHost, RecoveryBudget
from inference_service.wire.card import EngineState
from tests.nodes.harness import wait_until

STATE = "observation.state"
BUDGET = RecoveryBudget(attempts=3, first_s=1.0, longest_s=3.0, stable_s=60.0, failures=3, stall_s=5.0)


class Fragile:
    """Breaks when ``break_with`` says so. The bad batch is one whose state is -1."""

    def __init__(self) -> None:
        self.spec = PolicySpec("act", "fragile", "cpu", 2, 2, {STATE: Feature(STATE, FeatureType.STATE, (2,))})
        self.break_with: Callable[[], Exception | None] = lambda: None
        self.block = threading.Event()
        self.block.set()
        self.calls = self.closed = 0

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        self.calls += 1
        assert self.block.wait(10.0)
        error = self.break_with()
        if error:
            raise error
        if batch[STATE][0, 0] == -1:
            raise InferenceFailed("bad input")
        return np.full((2, 2), batch[STATE][0, 0], np.float32)

    def close(self) -> None:
        self.closed += 1


class Recovering(Fragile):
    recoveries = 0

    def recover(self) -> None:
        self.recoveries += 1
        self.break_with = lambda: None


class Remembering(Fragile):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[str] = []

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


class Hosted:
    """A host on a clock that stands still."""

    def __init__(self, *policies: PolicyWrapper | Exception) -> None:
        self.now = 100.0
        self.loads: Iterator[PolicyWrapper | Exception] = iter(policies)
        self.loaded = 0
        self.states: list[tuple[EngineState, str]] = []
        self.host = EngineHost(self._load, logging.getLogger("host"), self._note, BUDGET, lambda: self.now)

    def _load(self) -> PolicyWrapper:
        self.loaded += 1
        policy = next(self.loads)
        if isinstance(policy, Exception):
            raise policy
        return policy

    def _note(self) -> None:
        self.states.append((self.host.state, self.host.reason))

    def started(self) -> EngineHost:
        self.host.start()
        return self.host

    def after(self, seconds: float) -> EngineState:
        self.now += seconds
        self.host.tend()
        return self.host.state


def batch(value: float = 1.0) -> Batch:
    return {STATE: np.full((1, 2), value, np.float32)}


def raising(error: Exception) -> Callable[[], Exception | None]:
    return lambda: error


def test_it_is_loaded_warmed_up_and_then_ready() -> None:
    policy = Fragile()
    hosted = Hosted(policy)
    assert hosted.host.problem == "engine is LOADING" and hosted.host.spec is None
    with pytest.raises(EngineUnavailable, match="LOADING"):
        hosted.host.infer(batch())
    host = hosted.started()
    assert [state for state, _ in hosted.states] == [EngineState.WARMING_UP, EngineState.READY]
    assert policy.calls == 1 and host.problem is None and host.spec is policy.spec
    assert host.infer(batch(3.0)).action[0, 0] == 3.0


def test_a_model_that_does_not_load_is_a_fault_for_good() -> None:
    hosted = Hosted(ModelLoadFailed("model.onnx: corrupt"))
    host = hosted.started()
    assert (host.state, host.reason) == (EngineState.FAULT, "model.onnx: corrupt")
    assert hosted.after(1000.0) is EngineState.FAULT and hosted.loaded == 1


def test_a_runtime_that_is_not_there_yet_is_tried_again() -> None:
    hosted = Hosted(EngineFault("out of memory"), Fragile())
    hosted.started()
    assert hosted.after(0.5) is EngineState.FAULT and hosted.loaded == 1
    assert hosted.after(0.5) is EngineState.READY and hosted.loaded == 2


def test_a_fault_is_told_at_once_and_requests_are_refused_until_it_is_ready_again() -> None:
    policy = Recovering()
    hosted = Hosted(policy)
    host = hosted.started()
    policy.break_with = raising(EngineFault("the device is gone"))
    with pytest.raises(EngineFault):
        host.infer(batch())
    assert hosted.states[-1] == (EngineState.FAULT, "the device is gone")
    calls = policy.calls
    with pytest.raises(EngineUnavailable, match="FAULT the device is gone"):
        host.infer(batch())
    assert policy.calls == calls, "a request reached a runtime at fault"
    assert hosted.after(0.9) is EngineState.FAULT and policy.recoveries == 0
    assert hosted.after(0.2) is EngineState.READY and policy.recoveries == 1
    assert hosted.loaded == 1 and host.reason == "" and host.infer(batch(2.0)).action[0, 0] == 2.0


def test_a_policy_that_cannot_recover_is_loaded_anew() -> None:
    first, second = Fragile(), Fragile()
    hosted = Hosted(first, second)
    host = hosted.started()
    first.break_with = raising(EngineFault("gone"))
    with pytest.raises(EngineFault):
        host.infer(batch())
    assert hosted.after(1.0) is EngineState.READY
    assert first.closed == 1 and second.calls == 1
    assert host.infer(batch(2.0)).action[0, 0] == 2.0


def test_attempts_come_less_and_less_often_and_then_no_more() -> None:
    policy = Fragile()
    hosted = Hosted(policy, *[EngineFault(f"still gone {n}") for n in range(9)])
    host = hosted.started()
    policy.break_with = raising(EngineFault("gone"))
    with pytest.raises(EngineFault):
        host.infer(batch())
    waits = []
    for _ in range(200):
        before = hosted.loaded
        hosted.after(0.25)
        if hosted.loaded > before:
            waits.append(hosted.now)
    assert [round(b - a, 2) for a, b in zip([100.0, *waits], waits, strict=False)] == [1.0, 2.0, 3.0]
    assert "given up after 3 attempts" in host.reason and "still gone 2" in host.reason


def test_an_engine_that_breaks_again_and_again_uses_up_its_attempts() -> None:
    """A runtime that starts and breaks at once must not be started for ever; one that served for a while may."""
    policy = Recovering()
    hosted = Hosted(policy)
    host = hosted.started()

    def fault() -> None:
        policy.break_with = raising(EngineFault("again"))
        with pytest.raises(EngineFault):
            host.infer(batch())

    for _ in range(3):
        fault()
        assert hosted.after(5.0) is EngineState.READY
    fault()
    assert hosted.after(1000.0) is EngineState.FAULT and "given up" in host.reason

    policy = Recovering()
    hosted = Hosted(policy)
    host = hosted.started()
    for _ in range(6):
        hosted.now += 61.0
        fault()
        assert hosted.after(5.0) is EngineState.READY
    assert host.faults == 6


@pytest.mark.parametrize("error", [InferenceFailed("cudnn"), NonFiniteAction("nan"), RuntimeError("unexpected")])
def test_failures_in_a_row_are_a_fault_when_a_warm_up_fails_too(error: Exception) -> None:
    policy = Fragile()
    hosted = Hosted(policy, Fragile())
    host = hosted.started()
    policy.break_with = raising(error)
    for _ in range(2):
        with pytest.raises((InferenceFailed, NonFiniteAction)):
            host.infer(batch())
    assert host.state is EngineState.READY
    with pytest.raises((InferenceFailed, NonFiniteAction)):
        host.infer(batch())
    assert host.state is EngineState.FAULT and "3 inferences failed in a row" in host.reason
    assert hosted.after(1.0) is EngineState.READY


def test_a_success_in_between_starts_the_count_anew() -> None:
    policy = Fragile()
    host = Hosted(policy).started()
    for _ in range(5):
        answers = host.infer_many([(batch(-1), NO_CONTEXT), (batch(-1), NO_CONTEXT)])
        assert all(isinstance(a, InferenceFailed) for a in answers)
        host.infer(batch())
    assert host.state is EngineState.READY and policy.calls == 1 + 15, "a warm-up was made"


def test_one_device_s_bad_requests_do_not_make_the_engine_faulty() -> None:
    policy = Fragile()
    host = Hosted(policy).started()
    for _ in range(10):
        with pytest.raises(InferenceFailed, match="bad input"):
            host.infer(batch(-1))
    assert host.state is EngineState.READY and host.faults == 0
    assert policy.calls == 1 + 10 + 3, "three in a row, then a warm-up"


def test_a_request_that_is_refused_before_it_reaches_the_runtime_counts_for_nothing() -> None:
    host = Hosted(Fragile()).started()
    for _ in range(10):
        with pytest.raises(InvalidObservation):
            host.infer({STATE: np.full((1, 2), np.nan, np.float32)})
    assert host.state is EngineState.READY


def test_one_fault_in_a_group_is_a_fault_and_the_others_have_their_answers() -> None:
    policy = Fragile()
    host = Hosted(policy).started()
    answers = iter([None, EngineFault("gone")])
    policy.break_with = lambda: next(answers)
    good, bad = host.infer_many([(batch(), NO_CONTEXT), (batch(), NO_CONTEXT)])
    assert isinstance(good, InferenceResult) and isinstance(bad, EngineFault)
    assert host.state is EngineState.FAULT


def test_an_inference_that_hangs_is_a_fault_until_it_returns() -> None:
    policy = Fragile()
    hosted = Hosted(policy)
    host = hosted.started()
    policy.block.clear()
    thread = threading.Thread(target=host.infer, args=(batch(),))
    thread.start()
    assert wait_until(lambda: policy.calls == 2)
    hosted.now += 4.9
    host.watch()
    assert host.state is EngineState.READY
    hosted.now += 0.2
    host.watch()
    assert host.state is EngineState.FAULT and "not returned for 5 s" in host.reason
    host.close()
    assert policy.closed == 0, "a runtime that computes was released"
    policy.block.set()
    thread.join(10.0)


def test_what_hung_may_return() -> None:
    policy = Fragile()
    hosted = Hosted(policy)
    host = hosted.started()
    policy.block.clear()
    thread = threading.Thread(target=host.infer, args=(batch(),))
    thread.start()
    assert wait_until(lambda: policy.calls == 2)
    hosted.now += 6.0
    host.watch()
    policy.block.set()
    thread.join(10.0)
    assert host.state is EngineState.READY
    host.watch()
    assert host.state is EngineState.READY


def test_a_fault_of_a_runtime_that_was_started_again_since_is_old_news() -> None:
    policy = Recovering()
    hosted = Hosted(policy)
    host = hosted.started()
    inside, go_on = threading.Event(), threading.Event()
    policy.break_with = raising(EngineFault("gone"))
    engine: Any = host._engine
    infer_many = engine.infer_many

    def slow(requests: Any) -> Any:
        answers = infer_many(requests)
        inside.set()
        assert go_on.wait(10.0)
        return answers

    engine.infer_many = slow
    thread = threading.Thread(target=host.infer_many, args=([(batch(), NO_CONTEXT)],))
    thread.start()
    assert inside.wait(10.0)
    engine.infer_many = infer_many
    with pytest.raises(EngineFault):
        host.infer(batch())
    assert hosted.after(1.0) is EngineState.READY
    go_on.set()
    thread.join(10.0)
    assert host.state is EngineState.READY and host.faults == 1


def test_closing_is_final() -> None:
    policy = Fragile()
    hosted = Hosted(policy)
    host = hosted.started()
    policy.break_with = raising(EngineFault("gone"))
    with pytest.raises(EngineFault):
        host.infer(batch())
    host.close()
    host.close()
    assert policy.closed == 1
    assert hosted.after(1000.0) is EngineState.DRAINING and hosted.loaded == 1
    with pytest.raises(EngineUnavailable, match="DRAINING"):
        host.infer(batch())


def test_a_session_s_history_is_dropped_where_there_is_one() -> None:
    policy = Remembering()
    host = Hosted(policy).started()
    policy.forgotten.clear()
    assert host.remembers
    host.forget("s1")
    assert policy.forgotten == ["s1"]
    plain = Hosted(Fragile()).started()
    assert not plain.remembers
    plain.forget("s1")
