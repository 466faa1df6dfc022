"""What LeRobot's families need to be asked for a chunk, and which are refused: read one by one in lerobot 0.6.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from inference_service.core.errors import ModelLoadFailed

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder


class Noise(Enum):
    """Where a family's random numbers come from."""

    NONE = "none"
    GIVEN = "given"
    """It takes its noise from us, so each robot of a pass has its own."""
    DRAWN = "drawn"
    """It draws from torch's generator, for the whole pass at once: one robot per pass."""


@dataclass(frozen=True)
class Family:
    """``remembers``: its queues of observations, filled by ``select_action`` alone, or what it planned last.
    ``guided``: it takes the left-over chunk of real-time chunking. ``precision``: its configuration has ``dtype``."""

    noise: Noise = Noise.DRAWN
    remembers: bool = False
    guided: bool = False
    precision: bool = False

    @property
    def batches(self) -> bool:
        return self.noise is not Noise.DRAWN


FAMILIES: Mapping[str, Family] = {
    "act": Family(Noise.NONE),
    "diffusion": Family(Noise.GIVEN, remembers=True),
    "eo1": Family(),
    "evo1": Family(),
    "fastwam": Family(),
    "groot": Family(),
    "multi_task_dit": Family(remembers=True),
    "pi0": Family(Noise.GIVEN, guided=True, precision=True),
    "pi05": Family(Noise.GIVEN, guided=True, precision=True),
    "pi0_fast": Family(),
    "smolvla": Family(Noise.GIVEN, guided=True),
    "tdmpc": Family(remembers=True),
    "vla_jepa": Family(),
    "vqbet": Family(remembers=True),
    "wall_x": Family(),
    "xvla": Family(),
}
REFUSED = {
    "lingbot_va": "it keeps a cache of keys, values and executed actions between calls",
    "molmoact2": "it keeps a generator between calls",
    "gaussian_actor": "it has no predict_action_chunk",
}


def family_of(folder: PolicyFolder) -> Family:
    """What the policy of ``folder`` needs.

    Raises:
        ModelLoadFailed: it cannot be served, and why.
    """
    name, where = folder.config.type, folder.path / "config.json"
    if name in REFUSED:
        raise ModelLoadFailed(f"{where}: policy type '{name}' cannot be served: {REFUSED[name]}")
    if name not in FAMILIES:
        raise ModelLoadFailed(f"{where}: policy type '{name}' is not known here; known: {', '.join(FAMILIES)}")
    if folder.config.raw.get("use_visual_memory") or folder.config.raw.get("use_proprioceptive_memory"):
        raise ModelLoadFailed(f"{where}: '{name}' with memory keeps past observations between calls")
    if folder.config.raw.get("use_peft"):
        raise ModelLoadFailed(f"{where}: use_peft needs its base model from elsewhere; merge the adapter first")
    return FAMILIES[name]
