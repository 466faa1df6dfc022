"""How to dispatch: what may be chosen, and what cannot work."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.dispatch.safety import LONGEST_S, SECOND_NS, SafetyLimits
from inference_service.dispatch.smoothing import DEFAULT_COEFF, GREATEST_COEFF

LOWEST_HZ = 0.01


@dataclass(frozen=True)
class DispatcherConfig:
    """How to dispatch. Frequencies in Hz, times in seconds.

    ``watermark``: a request goes out when so many steps or fewer remain. ``session`` begins every request id and
    differs from one process to the next, so that an answer to an earlier one is known as foreign.
    ``request_timeout_s``: a request's longest wait; shorter once it is known how long a chunk lasts.
    """

    safety: SafetyLimits
    control_hz: float
    session: str
    queue_size: int = 100
    watermark: int = 20
    request_timeout_s: float = 5.0
    retry_s: float = 0.1
    retry_max_s: float = 1.0
    smoothing: bool = False
    ensemble_coeff: float = DEFAULT_COEFF

    def __post_init__(self) -> None:
        if not LOWEST_HZ <= self.control_hz <= 1000:
            raise ValueError(f"control_frequency {self.control_hz} must be from {LOWEST_HZ:g} to 1000 Hz")
        if self.queue_size < 1 or self.watermark < 0:
            raise ValueError(f"queue_size {self.queue_size} must be 1 or more, watermark {self.watermark} 0 or more")
        if not (0 < self.request_timeout_s <= LONGEST_S and 0 < self.retry_s <= self.retry_max_s <= LONGEST_S):
            raise ValueError(
                f"request_timeout {self.request_timeout_s} s and retry_s {self.retry_s} must be above 0 and at most"
                f" {LONGEST_S:g} s, retry_max_s {self.retry_max_s} no less than retry_s"
            )
        if not abs(self.ensemble_coeff) <= GREATEST_COEFF:
            raise ValueError(
                f"temporal_ensemble_coeff {self.ensemble_coeff} must be from {-GREATEST_COEFF:g} to {GREATEST_COEFF:g}"
            )

    @property
    def period_ns(self) -> int:
        return round(SECOND_NS / self.control_hz)


def check_control_rate(control_hz: float, policy_fps: float) -> str | None:
    """What is wrong when one action a tick is not what the policy was trained for; ``None`` where it agrees.

    A policy's actions are ``1 / policy_fps`` apart; dispatched at another rate the robot moves that much
    faster or slower.
    """
    if abs(control_hz - policy_fps) <= 0.01 * policy_fps:
        return None
    return (
        f"control_frequency is {control_hz:g} Hz but the policy's actions are {policy_fps:g} a second: the robot moves"
        f" {control_hz / policy_fps:.2g} times as fast as demonstrated; set control_frequency to {policy_fps:g}"
    )
