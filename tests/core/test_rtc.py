"""Real-time chunking in numpy against LeRobot's own processor."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from inference_service.core.errors import InvalidObservation
from inference_service.core.policy import LeftOver
from inference_service.core.rtc import (
    Guidance,
    PrefixSchedule,
    RtcSettings,
    check_left_over,
    guidance_weight,
    prefix_weights,
)

CHUNK, MODEL_DIM, DIM = 50, 32, 6


def left_over(steps: int = 30, delay: int = 3, horizon: int = 10, dim: int = DIM) -> LeftOver:
    actions = np.random.default_rng(1).standard_normal((steps, dim)).astype(np.float32)
    return LeftOver(actions, delay, horizon)


def lerobot_processor(schedule: PrefixSchedule, max_weight: float = 10.0) -> Any:
    pytest.importorskip("lerobot")
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule(schedule.value), max_guidance_weight=max_weight)
    return RTCProcessor(config)


def assert_close(mine: np.ndarray, theirs: np.ndarray, schedule: PrefixSchedule) -> None:
    assert mine.dtype == theirs.dtype == np.float32 and mine.shape == theirs.shape
    if schedule in (PrefixSchedule.ONES, PrefixSchedule.ZEROS):
        assert np.array_equal(mine, theirs)
    else:
        np.testing.assert_allclose(mine, theirs, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("schedule", list(PrefixSchedule))
def test_prefix_weights_equal_lerobots(schedule: PrefixSchedule) -> None:
    processor = lerobot_processor(schedule)
    for total, horizon, delay in product((1, 2, 50, 100), (0, 1, 10, 37, 50, 99, 120), (0, 1, 4, 50, 70)):
        if horizon > total:
            # Clamped to what is left, which is at most a chunk, before LeRobot asks.
            continue
        theirs = processor.get_prefix_weights(delay, horizon, total).numpy()
        assert_close(prefix_weights(delay, horizon, total, schedule), theirs, schedule)


@pytest.mark.parametrize("schedule", list(PrefixSchedule))
@pytest.mark.parametrize(("steps", "delay", "horizon"), [(30, 3, 10), (50, 0, 50), (4, 6, 10), (1, 1, 1), (0, 2, 10)])
def test_guided_velocity_equals_lerobots(schedule: PrefixSchedule, steps: int, delay: int, horizon: int) -> None:
    torch = pytest.importorskip("torch")
    processor = lerobot_processor(schedule, 5.0)
    previous = left_over(steps, delay, horizon)
    guide = Guidance(previous, (CHUNK, MODEL_DIM), RtcSettings(schedule, 5.0))
    rng = np.random.default_rng(0)
    for step in range(10):
        time = 1.0 + step * (-1.0 / 10)
        x_t, velocity = rng.standard_normal((2, 1, CHUNK, MODEL_DIM)).astype(np.float32)
        theirs = processor.denoise_step(
            x_t=torch.from_numpy(x_t),
            prev_chunk_left_over=torch.from_numpy(previous.actions),
            inference_delay=delay,
            time=time,
            # Something to differentiate through: LeRobot's correction does not see it.
            original_denoise_step_partial=lambda x, velocity=velocity: torch.from_numpy(velocity) + 0 * x,
            execution_horizon=horizon,
        ).numpy()
        assert_close(guide(velocity, x_t, time), theirs, schedule)
        assert_close(guide(velocity[0], x_t[0], time), theirs[0], schedule)


def test_guidance_weight_is_bounded_at_both_ends() -> None:
    assert guidance_weight(1.0) == 10
    assert guidance_weight(1.0, 3.0) == 3
    assert guidance_weight(0.0) == 0
    assert 0 < guidance_weight(0.5) == np.float32(2)


def test_guidance_pulls_the_chunk_onto_what_is_left() -> None:
    """From pure noise, with a model that knows nothing, the executed prefix still comes out as it was."""
    previous = left_over(steps=40, delay=8, horizon=20)
    guide = Guidance(previous, (CHUNK, MODEL_DIM))
    x_t = np.random.default_rng(3).standard_normal((CHUNK, MODEL_DIM)).astype(np.float32)
    for step in range(10):
        x_t = x_t - np.float32(0.1) * guide(x_t * np.float32(0.1), x_t, 1.0 - step / 10)
    off = np.abs(x_t[:40, :DIM] - previous.actions).max(axis=1)
    assert off[:8].max() < 0.2
    assert off[20:].max() > 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (left_over(steps=51), r"shape \(51, 6\), expected \(up to 50 steps, 6\)"),
        (left_over(dim=7), r"\(30, 7\)"),
        (LeftOver(np.zeros(6, np.float32), 0, 10), r"\(6,\)"),
        (LeftOver(np.full((3, 6), np.nan, np.float32), 0, 10), "NaN"),
        (left_over(delay=-1), "inference delay -1"),
        (left_over(horizon=-1), "execution horizon -1"),
    ],
)
def test_a_left_over_that_does_not_fit_is_refused(bad: LeftOver, says: str) -> None:
    with pytest.raises(InvalidObservation, match=says):
        check_left_over(bad, CHUNK, DIM)
    check_left_over(left_over(), CHUNK, DIM)


def test_more_than_a_chunk_cannot_be_left_over() -> None:
    with pytest.raises(InvalidObservation, match="exceed"):
        Guidance(left_over(steps=60), (CHUNK, MODEL_DIM))
