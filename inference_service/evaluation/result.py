"""What episodes come to: one by one, and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inference_service.sim.task import TOLERANCE_M, succeeded


@dataclass(frozen=True)
class Episode:
    """One cube. ``reached_s``: when the tips were at it first, None: never. ``end_m``: how far from it at the end."""

    seed: int
    success: bool
    reached_s: float | None
    end_m: float

    @classmethod
    def of(cls, seed: int, distances: Sequence[float], rate_hz: float) -> Episode:
        """From tip distances in metres, ``rate_hz`` a second."""
        near = np.flatnonzero(np.asarray(distances) <= TOLERANCE_M)
        reached = round((int(near[0]) + 1) / rate_hz, 2) if near.size else None
        return cls(seed, succeeded(distances, rate_hz), reached, round(float(distances[-1]), 4))


def summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """For JSON: ``episodes``, how many ``succeeded`` ``of`` how many, and their share as ``rate``."""
    good = sum(episode.success for episode in episodes)
    return {
        "succeeded": good,
        "of": len(episodes),
        "rate": round(good / len(episodes), 3),
        "episodes": [asdict(episode) for episode in episodes],
    }
