"""Faults that a simulated robot shows on demand, for tests and demonstrations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


class Faults:
    """Which faults are asked for; they begin ``after_s`` from now and last ``for_s``, by ``clock`` in seconds.

    ``freeze_camera`` repeats its picture and stamp, ``mute_camera`` sends nothing, ``nan_state`` makes the first
    joint's position NaN, ``drop_joint`` is missing from the joint states. Empty: none.
    """

    def __init__(
        self,
        *,
        freeze_camera: str = "",
        mute_camera: str = "",
        nan_state: bool = False,
        drop_joint: str = "",
        after_s: float = 0.0,
        for_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._freeze, self._mute, self._nan, self._drop = freeze_camera, mute_camera, nan_state, drop_joint
        self._clock = clock
        self._begin = clock() + after_s
        self._end = self._begin + for_s

    def present(self) -> bool:
        """Whether the faults are there now."""
        return self._begin <= self._clock() < self._end

    def frozen(self, camera: str) -> bool:
        return self._freeze == camera and self.present()

    def mute(self, camera: str) -> bool:
        return self._mute == camera and self.present()

    def corrupt(self, names: list[str], positions: Float64, velocities: Float64) -> tuple[list[str], Float64, Float64]:
        """Joint states as the faults leave them."""
        if not self.present():
            return names, positions, velocities
        if self._nan:
            positions = np.concatenate([[math.nan], positions[1:]])
        kept = [i for i, name in enumerate(names) if name != self._drop]
        return [names[i] for i in kept], positions[kept], velocities[kept]
