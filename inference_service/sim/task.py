"""The task of the demo policy: bring the finger tips to the cube, and keep them there.

Read from the world's ground truth, never from pictures, so that it can judge whoever moved the arm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_service.sim.world import SimWorld

Float64 = NDArray[np.float64]

TOLERANCE_M = 0.025
"""The tips are at the cube within this distance: the length of its edge."""
EPISODE_S = 6.0
HOLD_S = 1.0
"""An episode succeeds when the tips are at the cube for the whole of its last second."""


def tip_distance(world: SimWorld) -> float:
    """Metres from the middle of the finger tips to the centre of the cube's top face."""
    return float(np.linalg.norm(world.tip_position - world.cube_top))


def reached(world: SimWorld) -> bool:
    """Whether the finger tips are at the cube now."""
    return tip_distance(world) <= TOLERANCE_M


def succeeded(distances: Sequence[float] | Float64, rate_hz: float) -> bool:
    """Judge an episode by its tip distances (ticks,) in metres, ``rate_hz`` of them a second.

    Raises:
        ValueError: fewer of them than :data:`HOLD_S` takes.
    """
    last = round(HOLD_S * rate_hz)
    if len(distances) < last:
        raise ValueError(f"{len(distances)} distances do not cover the last {HOLD_S} s at {rate_hz} Hz")
    return bool(np.max(np.asarray(distances, np.float64)[-last:]) <= TOLERANCE_M)
