"""Thousands of ticks under random faults: what must hold whatever happens.

Fault: an inference server that delays, loses, doubles, forges and spoils answers, comes and goes; joint states that
stop; a process that stalls; resets at any moment. Expected: the robot goes on whenever it can. Invariants: P1, P3,
P5 and P7, judged here from what went in and what came out, without asking the dispatcher what it thinks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from dispatch_rig import PERIOD_NS, Rig

from inference_service.dispatch.report import Source, TickResult
from inference_service.dispatch.requests import InferenceRequest
from inference_service.dispatch.safety import JointBounds, SafeBehaviour

STEPS = 12
LIMIT = 0.9
MAX_AGE_NS = (STEPS + 1) * PERIOD_NS
MAX_VELOCITY = 4.0
HOLD_TIMEOUT_S = 0.4
TICKS = 3000
SEEDS = range(6)


@dataclass
class Server:
    """Answers requests badly. ``sent`` keeps every chunk that was delivered intact, by request."""

    rig: Rig
    rng: np.random.Generator
    pending: list[tuple[int, InferenceRequest, str]] = field(default_factory=list)
    sent: dict[str, np.ndarray] = field(default_factory=dict)
    faults: bool = True

    def ask(self, request: InferenceRequest) -> None:
        rng = self.rng
        if not self.faults:
            self.pending.append((self.rig.now_ns, request, "good"))
            return
        fate = rng.choice(["good", "nan", "shape", "fail", "lost"], p=[0.6, 0.1, 0.05, 0.1, 0.15])
        delay = int(rng.exponential(4) * PERIOD_NS) if rng.random() < 0.9 else 40 * PERIOD_NS
        copies = 2 if rng.random() < 0.15 else 1
        if fate != "lost":
            self.pending += [(self.rig.now_ns + delay * (1 + c), request, str(fate)) for c in range(copies)]
        if rng.random() < 0.1:
            self.rig.dispatcher.on_result(f"other-{rng.integers(9)}", np.full((STEPS, 2), 0.77), 1.0, self.rig.now_ns)

    def deliver(self) -> None:
        due = [p for p in self.pending if p[0] <= self.rig.now_ns]
        self.pending = [p for p in self.pending if p[0] > self.rig.now_ns]
        for _, request, fate in due:
            self._answer(request, fate)

    def _answer(self, request: InferenceRequest, fate: str) -> None:
        actions = self.rng.uniform(-1.2, 1.2, (STEPS, 2))
        if fate == "fail":
            self.rig.dispatcher.on_failure(request.request_id, "broken", self.rig.now_ns)
        elif fate == "shape":
            self.rig.dispatcher.on_result(request.request_id, actions[:, :1], 1.0, self.rig.now_ns)
        else:
            if fate == "nan":
                actions[self.rng.integers(STEPS), self.rng.integers(2)] = self.rng.choice([np.nan, np.inf, -np.inf])
            else:
                self.sent.setdefault(request.request_id, actions.copy())
            self.rig.answer(request, actions)


class Oracle:
    """Judges every tick on its own books."""

    def __init__(self, server: Server, *, exact: bool, speed_limit: bool) -> None:
        self.server = server
        self.exact = exact
        self.speed_limit = speed_limit
        self.requests: dict[str, InferenceRequest] = {}
        self.cancelled: set[str] = set()
        self.moved = False
        self.holding_since: int | None = None
        self.last: np.ndarray | None = None

    def reset(self) -> None:
        self.moved = False
        self.holding_since = None
        self.last = None

    def judge(self, result: TickResult, now_ns: int) -> None:
        self.cancelled.update(result.cancel)
        if result.request is not None:
            self.requests[result.request.request_id] = result.request
        self._p3(result)
        if result.source is Source.QUEUE:
            self._p1_p7(result, now_ns)
            self.moved, self.holding_since = True, None
        self._p5(result, now_ns)
        self.last = result.command if result.command is not None else self.last

    def _p3(self, result: TickResult) -> None:
        if result.command is None:
            return
        assert np.isfinite(result.command).all(), "P3: not finite"
        assert (np.abs(result.command) <= LIMIT).all(), "P3: outside the limits"
        if self.speed_limit and self.last is not None:
            step = np.abs(result.command - self.last).max()
            assert step <= MAX_VELOCITY * PERIOD_NS / 1e9 + 1e-9, "nothing jumps"

    def _p1_p7(self, result: TickResult, now_ns: int) -> None:
        assert result.action_of is not None
        request_id, row = result.action_of
        request = self.requests[request_id]
        assert now_ns - request.sent_ns <= MAX_AGE_NS, "P1: too old"
        assert request_id not in self.cancelled, "P7: an answer to a request given up"
        assert row == result.tick - request.tick, "aligned by every tick since the request"
        if self.exact:
            expected = np.clip(self.server.sent[request_id][row], -LIMIT, LIMIT)
            np.testing.assert_array_equal(result.command, expected)

    def _p5(self, result: TickResult, now_ns: int) -> None:
        if result.source is Source.HOLD:
            self.holding_since = now_ns if self.holding_since is None else self.holding_since
            assert now_ns - self.holding_since < HOLD_TIMEOUT_S * 1e9, "P5: held for too long"
        if not self.moved:
            assert result.command is None, "P5: commanded before the first action"


class Storm:
    """One dispatcher, one bad server, one oracle."""

    def __init__(self, seed: int, *, exact: bool, smoothing: bool, behaviour: SafeBehaviour, latch: bool) -> None:
        self.rng = np.random.default_rng(seed)
        speed = {} if exact else {"max_velocity": MAX_VELOCITY}
        joints = tuple(JointBounds(name, -LIMIT, LIMIT, **speed) for name in ("pan", "lift"))
        self.rig = Rig(
            watermark=int(self.rng.integers(0, STEPS)),
            smoothing=smoothing,
            request_timeout_s=1.0,
            safety={
                "joints": joints,
                "hold_timeout_s": HOLD_TIMEOUT_S,
                "on_timeout": behaviour,
                "latch": latch,
                "ramp_s": 0.0 if exact else 0.3,
            },
        )
        self.server = Server(self.rig, self.rng)
        self.oracle = Oracle(self.server, exact=exact and not smoothing, speed_limit=not exact)

    def run(self, ticks: int) -> list[TickResult]:
        results = []
        for _ in range(ticks):
            self._misfortune()
            self.server.deliver()
            now_ns = self.rig.now_ns
            result = self.rig.tick()
            self.oracle.judge(result, now_ns)
            if result.request is not None:
                self.server.ask(result.request)
            results.append(result)
        return results

    def _misfortune(self) -> None:
        if not self.server.faults:
            return
        rng, rig = self.rng, self.rig
        if rng.random() < 0.005:
            rig.now_ns += int(rng.exponential(1e9))
        if rng.random() < 0.01:
            rig.dispatcher.reset()
            self.oracle.reset()
        if rng.random() < 0.02:
            rig.dispatcher.on_server_state(bool(rng.random() < 0.7), rig.now_ns)
        if rng.random() < 0.02:
            rig.joints_at = rng.choice([None, float(rng.uniform(-0.5, 0.5)), float("nan")])
        rig.now_ns += int(rng.uniform(0, 0.1) * PERIOD_NS)

    def calm(self) -> None:
        self.server.faults = False
        self.rig.joints_at = 0.0
        self.rig.dispatcher.on_server_state(True, self.rig.now_ns)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("behaviour", list(SafeBehaviour))
def test_p1_p3_p5_p7_hold_under_random_faults(seed: int, behaviour: SafeBehaviour) -> None:
    storm = Storm(seed, exact=True, smoothing=False, behaviour=behaviour, latch=bool(seed % 2))
    results = storm.run(TICKS)
    seen = {r.source for r in results}
    assert seen == set(Source), f"a storm that meets only {seen} proves little"
    counters = storm.rig.stats().counters
    assert counters.rejected_chunks and counters.late_results and counters.duplicate_results
    assert counters.foreign_results and counters.inference_timeouts and counters.expired_chunks


@pytest.mark.parametrize("seed", SEEDS)
def test_smoothed_and_speed_limited_commands_keep_the_promises_too(seed: int) -> None:
    storm = Storm(seed + 100, exact=False, smoothing=True, behaviour=SafeBehaviour.ZEROS, latch=False)
    results = storm.run(TICKS)
    assert sum(r.source is Source.QUEUE for r in results) > TICKS // 20


@pytest.mark.parametrize("seed", SEEDS)
def test_p6_it_resumes_by_itself_when_the_storm_is_over(seed: int) -> None:
    storm = Storm(seed + 200, exact=True, smoothing=bool(seed % 2), behaviour=SafeBehaviour.HOLD, latch=False)
    for _ in range(20):
        storm.server.faults = True
        storm.run(50)
        storm.calm()
        assert any(r.source is Source.QUEUE for r in storm.run(60)[-20:])


@pytest.mark.parametrize("seed", SEEDS)
def test_p10_nothing_grows_with_time(seed: int) -> None:
    storm = Storm(seed + 300, exact=True, smoothing=True, behaviour=SafeBehaviour.HOLD, latch=False)
    storm.run(TICKS)
    dispatcher = storm.rig.dispatcher
    assert len(dispatcher._plan.chunks) <= STEPS
    assert len(dispatcher._requests._closed) <= 256
    assert not dispatcher._events
    assert not dispatcher._cancel
