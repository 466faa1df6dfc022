"""Real-time chunking: a new chunk that goes on where the robot is still executing the one before.

Black, Galliker, Levine 2025 (https://www.physicalintelligence.company/download/real_time_chunking.pdf) in the form of
LeRobot's ``RTCProcessor``: while a flow policy denoises from time 1 (noise) to 0 (actions), the velocity of each step
is corrected towards the actions left over. LeRobot evaluates the velocity before it asks for gradients, so its
correction is the weighted error itself; no engine has to differentiate its model. With x1 = x_t - time * v::

    v - guidance_weight(time) * ((left over - x1) * prefix weights)

Everything in float32 and LeRobot's order of operations: equal to it bit for bit for equal prefix weights. Those of
LINEAR and EXP are equal up to rounding; torch's own depend on the width of the CPU's vector registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from inference_service.core.batch import Float32
from inference_service.core.errors import InvalidObservation
from inference_service.core.policy import LeftOver


class PrefixSchedule(str, Enum):
    """How firmly a step is held to the chunk before, from the inference delay to the execution horizon. Before
    the delay always fully, beyond the horizon never. LeRobot's ``RTCAttentionSchedule``."""

    LINEAR = "LINEAR"
    EXP = "EXP"
    ONES = "ONES"
    ZEROS = "ZEROS"


@dataclass(frozen=True)
class RtcSettings:
    """``schedule`` and the bound of the guidance weight; LeRobot's defaults."""

    schedule: PrefixSchedule = PrefixSchedule.LINEAR
    max_guidance_weight: float = 10.0


def check_left_over(left_over: LeftOver, chunk_size: int, action_dim: int) -> None:
    """Whether ``left_over`` fits a policy of this chunk size and action dimension.

    Raises:
        InvalidObservation: another dimension, more steps than a chunk has, not finite, or a delay or horizon that
            is negative.
    """
    actions = left_over.actions
    if actions.ndim != 2 or actions.shape[1] != action_dim or actions.shape[0] > chunk_size:
        raise InvalidObservation(
            f"left-over actions have shape {actions.shape}, expected (up to {chunk_size} steps, {action_dim})"
        )
    if not np.isfinite(actions).all():
        raise InvalidObservation("left-over actions hold NaN or infinity")
    if left_over.inference_delay < 0 or left_over.execution_horizon < 0:
        raise InvalidObservation(
            f"inference delay {left_over.inference_delay} and execution horizon {left_over.execution_horizon} "
            "count steps; neither can be negative"
        )


def prefix_weights(delay: int, horizon: int, total: int, schedule: PrefixSchedule = PrefixSchedule.LINEAR) -> Float32:
    """(total,) float32 between 1 and 0: 1 for the first ``delay`` steps, 0 from step ``horizon`` on."""
    delay = min(delay, horizon)
    weights = np.zeros(total, np.float32)
    weights[:delay] = 1
    if schedule is PrefixSchedule.ONES:
        weights[:horizon] = 1
    elif schedule is not PrefixSchedule.ZEROS:
        steps = min(horizon, total) - delay
        if steps > 0:
            weights[delay : delay + steps] = _falling(steps, schedule)
    return weights


def _falling(steps: int, schedule: PrefixSchedule) -> Float32:
    """The inner points of a line from 1 to 0, bent for EXP."""
    line = np.linspace(1, 0, steps + 2)[1:-1]
    if schedule is PrefixSchedule.EXP:
        line = line * np.expm1(line) / (math.e - 1)
    return line.astype(np.float32)


def guidance_weight(time: float, max_weight: float = 10.0) -> np.float32:
    """How strongly the velocity at ``time`` (1: noise, 0: actions) is corrected; at most ``max_weight``."""
    largest = np.float32(max_weight)
    tau = np.float32(1.0 - time)
    rest = np.float32(1) - tau
    weight: np.float32 = np.float32(0)
    if rest != 0:
        squared = rest * rest
        inverse_r2 = (squared + tau * tau) / squared
        ratio = rest / tau if tau else largest
        weight = np.float32(min(ratio * inverse_r2, largest))
    return weight


class Guidance:
    """The guidance of one chunk: made once per request, called once per denoising step.

    ``chunk_shape`` is that of the model's ``x_t`` without its batch axis, (steps, dimensions); dimensions may exceed
    the robot's where the model pads its actions. Missing steps and dimensions are zero, as in LeRobot.
    """

    def __init__(self, left_over: LeftOver, chunk_shape: tuple[int, int], settings: RtcSettings | None = None) -> None:
        """
        Raises:
            InvalidObservation: ``left_over`` is larger than ``chunk_shape``.
        """
        settings = settings or RtcSettings()
        steps, dimensions = left_over.actions.shape
        if steps > chunk_shape[0] or dimensions > chunk_shape[1]:
            raise InvalidObservation(f"left-over actions {(steps, dimensions)} exceed the model's chunk {chunk_shape}")
        self._max_weight = settings.max_guidance_weight
        self._target = np.zeros(chunk_shape, np.float32)
        self._target[:steps, :dimensions] = left_over.actions
        # Nothing is there to be merged with beyond what is left.
        horizon = min(left_over.execution_horizon, steps)
        weights = prefix_weights(left_over.inference_delay, horizon, chunk_shape[0], settings.schedule)
        self._weights = weights[:, None]

    def __call__(self, velocity: Float32, x_t: Float32, time: float) -> Float32:
        """The corrected velocity, float32, in the shape of ``velocity`` and ``x_t``: ``chunk_shape``, or that with a
        batch axis. ``time`` from 1 (noise) to 0 (actions); the next ``x_t`` is ``x_t + dt * velocity``, dt < 0."""
        x1 = x_t - np.float32(time) * velocity
        error = (self._target - x1) * self._weights
        corrected: Float32 = velocity - guidance_weight(time, self._max_weight) * error
        return corrected
