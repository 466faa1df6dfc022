"""Real-time chunking in LeRobot's flow policies: their hook, several robots at once, no gradients.

LeRobot's ``RTCProcessor`` guides all rows of a batch with one delay and one horizon, and asks autograd for a
correction that equals the weighted error (:mod:`inference_service.core.rtc`). :class:`GuidedDenoising` stands in its
place, with LeRobot's own weights, one left-over chunk per row and the closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from inference_service.core.policy import LeftOver
from inference_service.core.rtc import guidance_weight


class GuidedDenoising:
    """``denoise_step`` and ``is_debug_enabled`` of LeRobot's processor ``original``."""

    def __init__(self, torch: Any, original: Any) -> None:
        self._torch = torch
        self._original = original
        self._left_over: list[LeftOver | None] = []
        self._prepared: tuple[Any, Any] | None = None

    def aim(self, left_over: Sequence[LeftOver | None]) -> None:
        """Whose left-over actions guide each row of the next pass; None for a row that goes unguided."""
        self._left_over = list(left_over)
        self._prepared = None

    def is_debug_enabled(self) -> bool:
        return False

    def denoise_step(self, x_t: Any, time: float, original_denoise_step_partial: Callable[[Any], Any], **_: Any) -> Any:
        """The velocity at ``x_t`` (B, T, A), guided. The other arguments of LeRobot's hook hold for all rows alike and
        are not used."""
        velocity = original_denoise_step_partial(x_t)
        if not any(self._left_over):
            return velocity
        if self._prepared is None:
            self._prepared = self._targets(x_t)
        target, weights = self._prepared
        correction = (target - (x_t - time * velocity)) * weights
        weight = self._torch.as_tensor(guidance_weight(time, self._original.rtc_config.max_guidance_weight))
        return velocity - weight * correction

    def _targets(self, x_t: Any) -> tuple[Any, Any]:
        """What is left, zeros beyond (B, T, A), and how firmly each step is held to it (B, T, 1)."""
        torch, steps = self._torch, x_t.shape[1]
        target = torch.zeros(x_t.shape, dtype=torch.float32, device=x_t.device)
        weights = torch.zeros((x_t.shape[0], steps, 1), dtype=torch.float32, device=x_t.device)
        for row, left_over in enumerate(self._left_over):
            if left_over is None:
                continue
            length, dimensions = left_over.actions.shape
            target[row, :length, :dimensions] = torch.tensor(left_over.actions)
            horizon = min(left_over.execution_horizon, length)
            weights[row, :, 0] = self._original.get_prefix_weights(left_over.inference_delay, horizon, steps)
        return target, weights


def install(torch: Any, policy: Any, schedule: str | None, max_guidance_weight: float | None) -> GuidedDenoising:
    """Let ``policy`` (pi0, pi05, smolvla) denoise under guidance. What the arguments leave open is as its
    configuration has it, else LeRobot's default. Without left-over actions its chunks stay as they are.

    Raises:
        ValueError: no such schedule, or a weight that is not positive.
    """
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    config = policy.config.rtc_config or RTCConfig()
    config.enabled = True
    if schedule is not None:
        config.prefix_attention_schedule = RTCAttentionSchedule(schedule)
    if max_guidance_weight is not None:
        if max_guidance_weight <= 0:
            raise ValueError(f"rtc_max_guidance_weight must be positive, got {max_guidance_weight}")
        config.max_guidance_weight = max_guidance_weight
    policy.config.rtc_config = config
    policy.init_rtc_processor()
    guided = GuidedDenoising(torch, policy.rtc_processor)
    policy.rtc_processor = policy.model.rtc_processor = guided
    return guided
