"""A policy's life in a process: loaded, warmed up, serving, at fault, started again.

Used by the engine node and, where there is no wire, by the device node itself: whoever owns a host gives it a thread
for :meth:`EngineHost.start` and :meth:`EngineHost.tend`, which block as loading does, and may ask it from any other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference_service.core.batch import Batch
from inference_service.core.engine import InferenceResult, PureInferenceEngine
from inference_service.core.errors import (
    EngineFault,
    EngineUnavailable,
    InferenceFailed,
    InferenceServiceError,
    NonFiniteAction,
)
from inference_service.core.policy import (
    NO_CONTEXT,
    InferenceContext,
    PolicySpec,
    PolicyWrapper,
    RecoverablePolicy,
    RememberingPolicy,
)
from inference_service.wire.card import EngineState

Answer = InferenceResult | InferenceServiceError


@dataclass(frozen=True)
class RecoveryBudget:
    """How hard to try. ``attempts`` to start a runtime again, the first after ``first_s``, each later one after twice
    as long, ``longest_s`` at most; an engine that served for ``stable_s`` has all of them again. ``failures`` in a row
    make an engine look whether it is at fault itself; an inference of ``stall_s`` is taken for one that hangs."""

    attempts: int = 8
    first_s: float = 1.0
    longest_s: float = 60.0
    stable_s: float = 60.0
    failures: int = 5
    stall_s: float = 60.0

    def delay_s(self, attempt: int) -> float:
        """Seconds before ``attempt`` (from 0)."""
        return min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))


class EngineHost:
    """``load`` makes the policy, and makes it anew where a policy cannot recover by itself. ``on_change`` is called
    after each change of ``state``, on the thread that caused it. ``clock`` in seconds, monotonic.

    A request is refused with EngineUnavailable unless ``state`` is READY. EngineFault, an inference that hangs, and
    failures in a row that a warm-up confirms (if it does not, the requests are to blame) make the state FAULT.
    """

    def __init__(
        self,
        load: Callable[[], PolicyWrapper],
        logger: logging.Logger,
        on_change: Callable[[], None] = lambda: None,
        budget: RecoveryBudget = RecoveryBudget(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_policy = load
        self._logger = logger
        self._on_change = on_change
        self._budget = budget
        self._clock = clock
        self._lock = threading.RLock()
        self._policy: PolicyWrapper | None = None
        self._engine: PureInferenceEngine | None = None
        self._state, self._reason = EngineState.LOADING, ""
        self._ready_since = 0.0
        self._retry_at: float | None = None
        self._attempts = 0
        self._failures = 0
        self._generation = 0
        self._busy: dict[int, float] = {}
        self._stalled = False
        self._draining = False
        self.faults = 0

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def reason(self) -> str:
        """Of a FAULT; empty otherwise."""
        return self._reason

    @property
    def problem(self) -> str | None:
        """Why a request made now would be refused, or None."""
        return None if self._state is EngineState.READY else f"engine is {self._state.name} {self._reason}".strip()

    @property
    def spec(self) -> PolicySpec | None:
        """None until a policy was loaded."""
        return self._engine.spec if self._engine else None

    @property
    def remembers(self) -> bool:
        """Whether the policy keeps a history for each session."""
        return isinstance(self._policy, RememberingPolicy)

    # -- the owner's thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load and warm up. Raises nothing: what goes wrong is a FAULT, and logged."""
        try:
            self._load()
        except Exception as error:  # noqa: BLE001  # whatever a library raises, the card tells of it
            self._fail_to_start("Engine failed to load", error, again=isinstance(error, EngineFault))

    def tend(self) -> None:
        """Start a runtime at fault again where an attempt is due; otherwise returns at once. Raises nothing."""
        with self._lock:
            due = self._retry_at is not None and self._clock() >= self._retry_at
            if self._state is not EngineState.FAULT or not due:
                return
            self._retry_at = None
            self._attempts += 1
        attempt = f"Attempt {self._attempts} of {self._budget.attempts} to start the engine again"
        self._logger.info("%s", attempt)
        try:
            self._start_again()
        except Exception as error:  # noqa: BLE001  # as above
            self._fail_to_start(f"{attempt} failed", error, again=True)
        else:
            self._logger.info("Engine recovered")

    def watch(self) -> None:
        """Notice an inference that hangs. Call it every now and then from a thread that infers nothing itself."""
        with self._lock:
            oldest = min(self._busy.values(), default=None)
            if oldest is None or self._clock() - oldest < self._budget.stall_s or self.problem:
                return
            self._stalled = True
        self._fault(f"an inference has not returned for {self._budget.stall_s:g} s", again=False)

    def drain(self) -> None:
        """Refuse requests from now on; what is under way goes on."""
        with self._lock:
            if self._draining:
                return
            self._draining, self._retry_at = True, None
            self._state, self._reason = EngineState.DRAINING, ""
        self._on_change()

    def close(self) -> None:
        """Refuse requests from now on; release the policy after the inference in progress, or not at all where that
        one hangs. Idempotent."""
        self.drain()
        if self._stalled:
            self._logger.error("An inference hangs: the runtime is left as it is")
        elif self._engine is not None:
            self._engine.close()

    # -- any thread ---------------------------------------------------------------------------------------------

    def infer(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> InferenceResult:
        """As :meth:`~inference_service.core.engine.PureInferenceEngine.infer`, whatever else a backend raises turned
        into InferenceFailed.

        Raises:
            EngineUnavailable: not READY.
        """
        answer = self.infer_many([(batch, context)])[0]
        if isinstance(answer, InferenceServiceError):
            raise answer
        return answer

    def infer_many(self, requests: Sequence[tuple[Batch, InferenceContext]]) -> list[Answer]:
        """One answer per request, in order: its result, or the error that :meth:`infer` would raise."""
        with self._lock:
            engine, generation, problem = self._engine, self._generation, self.problem
            if problem or engine is None:
                return [EngineUnavailable(problem or "engine is LOADING") for _ in requests]
            self._busy[threading.get_ident()] = self._clock()
        try:
            answers = engine.infer_many(requests)
        except Exception as error:
            self._logger.exception("Inference failed")
            answers = [InferenceFailed(f"{type(error).__name__}: {error}") for _ in requests]
        finally:
            with self._lock:
                self._busy.pop(threading.get_ident(), None)
        self._judge(answers, generation)
        return answers

    def forget(self, session: str) -> None:
        """Drop what the policy remembers of ``session``; waits for the inference in progress."""
        if self._engine is not None and self._state is EngineState.READY:
            self._engine.forget(session)

    # -- faults -------------------------------------------------------------------------------------------------

    def _judge(self, answers: Sequence[Answer], generation: int) -> None:
        broken = [a for a in answers if isinstance(a, (InferenceFailed, NonFiniteAction))]
        fault = next((a for a in broken if isinstance(a, EngineFault)), None)
        with self._lock:
            if generation != self._generation:
                return  # of a runtime that was started again since
            back, self._stalled = self._stalled, False
            self._failures = 0 if len(broken) < len(answers) else self._failures + len(broken)
            suspect = self._failures >= self._budget.failures
        if back:
            self._logger.info("The inference returned after all")
            self._set(EngineState.READY)
        if fault is not None:
            self._fault(str(fault), again=True)
        elif suspect:
            self._probe(broken[-1])

    def _probe(self, last: InferenceServiceError) -> None:
        """After failures in a row: the engine's fault, or the requests'?"""
        engine = self._engine
        assert engine is not None
        count, self._failures = self._failures, 0
        try:
            engine.warm_up()
        except Exception as error:  # noqa: BLE001  # as above
            self._fault(f"{count} inferences failed in a row, and a warm-up too: {error}", again=True)
        else:
            self._logger.warning(
                "%d inferences failed in a row, a warm-up did not: the requests are at fault, the last: %s", count, last
            )

    def _fault(self, reason: str, *, again: bool) -> None:
        """What was READY is no more."""
        with self._lock:
            if self.problem:
                return
            self.faults += 1
            if self._clock() - self._ready_since >= self._budget.stable_s:
                self._attempts = 0
            self._enter_fault("Engine fault", reason, again)
        self._on_change()

    def _fail_to_start(self, what: str, error: Exception, *, again: bool) -> None:
        if not isinstance(error, InferenceServiceError):
            self._logger.error("%s", what, exc_info=error)
        with self._lock:
            self._enter_fault(what, str(error), again)
        self._on_change()

    def _enter_fault(self, what: str, reason: str, again: bool) -> None:
        if again and self._attempts < self._budget.attempts:
            self._retry_at = self._clock() + self._budget.delay_s(self._attempts)
        elif again:
            reason += f"; given up after {self._attempts} attempts: start the process again"
        self._logger.error("%s: %s", what, reason)
        if not self._draining:
            self._state, self._reason = EngineState.FAULT, reason

    def _start_again(self) -> None:
        engine = self._engine
        policy: object = self._policy
        if engine is not None and isinstance(policy, RecoverablePolicy):
            engine.recover()
            self._become_ready()
            return
        if engine is not None:
            engine.close()
        self._load(quietly=True)

    def _load(self, *, quietly: bool = False) -> None:
        policy = self._load_policy()
        engine = PureInferenceEngine(policy)
        with self._lock:
            self._policy, self._engine = policy, engine
        if self._draining:
            engine.close()
            return
        if not quietly:
            self._set(EngineState.WARMING_UP)
        engine.warm_up()
        self._become_ready()

    def _become_ready(self) -> None:
        with self._lock:
            self._generation += 1
            self._failures = 0
            self._ready_since = self._clock()
        self._set(EngineState.READY)

    def _set(self, state: EngineState, reason: str = "") -> None:
        with self._lock:
            if self._draining:
                return
            self._state, self._reason = state, reason
        self._on_change()
