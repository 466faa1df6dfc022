"""A dispatcher on a clock of its own: 20 Hz, two joints, no ramp, unless a test asks for something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from inference_service.dispatch.config import DispatcherConfig
from inference_service.dispatch.dispatcher import ActionDispatcher
from inference_service.dispatch.report import Event, TickResult
from inference_service.dispatch.requests import InferenceRequest
from inference_service.dispatch.safety import JointBounds, SafetyLimits

PERIOD_NS = 50_000_000
ROS_EPOCH_NS = 1_700_000_000_000_000_000
JOINTS = (JointBounds("pan", -2.0, 2.0), JointBounds("lift", -2.0, 2.0))


def chunk_of(*values: float) -> np.ndarray:
    """One step a value, the same for both joints; what the tests read back as the command."""
    return np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)


def ramp_of(steps: int, start: float = 0.0) -> np.ndarray:
    """Steps ``start``, ``start`` + 0.01, …: the value tells the row."""
    return chunk_of(*(start + 0.01 * np.arange(steps)))


class Rig:
    """Ticks a dispatcher; keeps every result, event and request."""

    def __init__(self, *, ready: bool = True, joints_at: float | None = 0.0, **changes: Any) -> None:
        safety = replace(SafetyLimits(joints=JOINTS, ramp_s=0.0), **changes.pop("safety", {}))
        settings = {"safety": safety, "control_hz": 20.0, "session": "s", "watermark": 0, **changes}
        self.dispatcher = ActionDispatcher(DispatcherConfig(**settings))
        self.now_ns = 10_000_000_000
        self.joints_at = joints_at
        self.events: list[Event] = []
        self.dispatcher.on_server_state(ready, self.now_ns)

    def tick(self) -> TickResult:
        if self.joints_at is not None:
            self.dispatcher.on_joint_state(np.full(2, self.joints_at), self.now_ns)
        result = self.dispatcher.tick(self.now_ns, ROS_EPOCH_NS + self.now_ns)
        self.now_ns += PERIOD_NS
        self.events.extend(result.events)
        return result

    def ticks(self, count: int) -> list[TickResult]:
        return [self.tick() for _ in range(count)]

    def until_request(self, limit: int = 200) -> InferenceRequest:
        for _ in range(limit):
            request = self.tick().request
            if request is not None:
                return request
        raise AssertionError(f"no request in {limit} ticks")

    def answer(self, request: InferenceRequest, actions: np.ndarray, latency_ms: float = 12.0) -> None:
        self.dispatcher.on_result(request.request_id, actions, latency_ms, self.now_ns)

    def feed(self, actions: np.ndarray) -> InferenceRequest:
        """Wait for a request and answer it before the next tick: row 0 has elapsed, row 1 is due next."""
        request = self.until_request()
        self.answer(request, actions)
        return request

    def stats(self) -> Any:
        return self.dispatcher.stats(self.now_ns)

    def messages(self, level: str) -> list[str]:
        return [event.message for event in self.events if event.level == level]


def values(results: list[TickResult]) -> list[float | None]:
    """The first joint's command of each tick, rounded; None where nothing was sent."""
    return [None if r.command is None else round(float(r.command[0]), 6) for r in results]
