"""A joint driven through chunk borders: the real dispatcher on a clock of its own, a policy that changes its mind.

The policy goes on along a sine from where it sees the joint and adds, in each chunk anew, an offset it has no reason
for: what a policy trained on demonstrations that disagree does. It denoises its chunk in ten steps as a flow policy
does, so that real-time chunking guides it with the code that guides PI0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.policy import LeftOver
from inference_service.core.rtc import Guidance
from inference_service.dispatch.config import DispatcherConfig
from inference_service.dispatch.dispatcher import ActionDispatcher
from inference_service.dispatch.report import Source
from inference_service.dispatch.requests import InferenceRequest
from inference_service.dispatch.safety import JointBounds, SafetyLimits

SETTINGS = ("from its first action", "by policy step", "temporal ensembling", "real-time chunking")
"""How a chunk follows the one before. The first is what a client does that plays each answer from its start."""
HZ = 20.0
PERIOD_NS = round(1e9 / HZ)
CHUNK = 50
WATERMARK = 30
OFFSET_RAD = 0.02
DENOISING_STEPS = 10


@dataclass
class Ride:
    """``command`` rad, a tick each; ``borders`` the ticks at which another chunk's actions begin."""

    command: list[float] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)
    holds: int = 0

    def velocity(self) -> NDArray[np.float64]:
        """rad/s, between one tick and the next."""
        return np.diff(np.array(self.command)) * HZ

    def figures(self) -> dict[str, float]:
        """The largest jump of velocity at a border and away from borders, rad/s per tick."""
        change = np.abs(np.diff(self.velocity()))
        at = np.zeros(len(change), bool)
        for tick in self.borders:
            at[max(0, tick - 2) : tick + 2] = True
        return {
            "border_max": round(float(change[at].max(initial=0.0)), 4),
            "inside_max": round(float(change[~at].max(initial=0.0)), 4),
            "holds": self.holds,
        }


class Policy:
    """Chunks of a sine of 0.5 rad and 4 s with an offset of its own each; ``seed`` decides the offsets."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def chunk(self, phase: int, left_over: LeftOver | None) -> NDArray[np.float32]:
        """(CHUNK, 1) float32, rad; ``phase``: how many ticks along the sine the joint is seen."""
        steps = phase + np.arange(CHUNK)
        wanted = 0.5 * np.sin(2 * np.pi * steps / (4 * HZ)) + self._rng.uniform(-OFFSET_RAD, OFFSET_RAD)
        target = wanted.astype(np.float32)[:, None]
        x_t = self._rng.standard_normal((CHUNK, 1)).astype(np.float32)
        guide = Guidance(left_over, (CHUNK, 1)) if left_over is not None else None
        dt = -1.0 / DENOISING_STEPS
        for step in range(DENOISING_STEPS):
            time = 1.0 + step * dt
            velocity = (x_t - target) / np.float32(time)
            x_t = x_t + np.float32(dt) * (velocity if guide is None else guide(velocity, x_t, time))
        return x_t


class Drive:
    """One setting at one delay."""

    def __init__(self, setting: str, delay_s: float, seed: int = 0) -> None:
        self._setting = setting
        self._delay_ns = round(delay_s * 1e9)
        self._policy = Policy(seed)
        smoothing = setting == "temporal ensembling"
        limits = SafetyLimits(joints=(JointBounds("joint", -3.0, 3.0),), ramp_s=0.0)
        self._dispatcher = ActionDispatcher(
            DispatcherConfig(safety=limits, control_hz=HZ, session="s", watermark=WATERMARK, smoothing=smoothing)
        )
        self._now_ns = 10_000_000_000
        self._phase = 0
        self._phases: dict[str, int] = {}
        self._waiting: tuple[InferenceRequest, NDArray[np.float32]] | None = None
        self._last: tuple[int, NDArray[np.float32]] | None = None
        self._chunk_of_last_action = ""

    def ride(self, ticks: int) -> Ride:
        ride = Ride()
        self._dispatcher.on_server_state(True, self._now_ns)
        while len(ride.command) < ticks:
            self._deliver()
            self._dispatcher.on_joint_state(np.zeros(1), self._now_ns)
            result = self._dispatcher.tick(self._now_ns, self._now_ns)
            if result.request is not None:
                self._waiting = result.request, self._answer(result.request)
            if result.command is not None:
                self._note(ride, result)
            self._now_ns += PERIOD_NS
        return ride

    def _note(self, ride: Ride, result: Any) -> None:
        ride.holds += result.source is Source.HOLD
        if result.action_of is not None:
            request_id, index = result.action_of
            self._phase = self._phases[request_id] + max(0, index) + 1
        if result.action_of is not None and result.action_of[0] != self._chunk_of_last_action:
            if self._chunk_of_last_action:
                ride.borders.append(len(ride.command))
            self._chunk_of_last_action = result.action_of[0]
        ride.command.append(float(result.command[0]))

    def _answer(self, request: InferenceRequest) -> NDArray[np.float32]:
        left_over = None
        if self._setting == "real-time chunking" and self._last is not None:
            tick, actions = self._last
            rest = actions[request.tick - tick :]
            delay = -(-self._delay_ns // PERIOD_NS) + 1
            left_over = LeftOver(rest, delay, min(len(rest), delay + 10)) if len(rest) else None
        chunk = self._policy.chunk(self._phase, left_over)
        self._phases[request.request_id] = self._phase
        self._last = request.tick, chunk
        return chunk

    def _deliver(self) -> None:
        """The chunk under way, where it has arrived."""
        if self._waiting is None or self._now_ns < self._waiting[0].sent_ns + self._delay_ns:
            return
        request, chunk = self._waiting
        self._waiting = None
        if self._setting == "from its first action":
            # Steps that have elapsed are put in front again, so that the first is due now.
            late = (self._now_ns - request.sent_ns) // PERIOD_NS
            chunk = np.concatenate([np.repeat(chunk[:1], late, axis=0), chunk])
            self._phases[request.request_id] -= int(late)
        self._dispatcher.on_result(request.request_id, chunk, self._delay_ns / 1e6, self._now_ns)
