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
    ``guided``: it takes the left-over chunk of real-time chunking. ``precision``: its configuration has ``dtype``.
    ``cut``: its chunks are as wide as the model, zeros beyond the robot's own. ``seed_in_batch``: it draws from a
    generator of its own. ``extra``: of this package, what it needs."""

    noise: Noise = Noise.DRAWN
    remembers: bool = False
    guided: bool = False
    precision: bool = False
    cut: bool = False
    seed_in_batch: bool = False
    extra: str = "lerobot"

    @property
    def batches(self) -> bool:
        return self.noise is not Noise.DRAWN


FAMILIES: Mapping[str, Family] = {
    "act": Family(Noise.NONE),
    "diffusion": Family(Noise.GIVEN, remembers=True, extra="diffusion"),
    "eo1": Family(precision=True, extra="eo1"),
    "evo1": Family(guided=True, cut=True, extra="evo1"),
    "fastwam": Family(seed_in_batch=True, extra="fastwam"),
    "multi_task_dit": Family(remembers=True, extra="multi-task-dit"),
    "pi0": Family(Noise.GIVEN, guided=True, precision=True, extra="pi"),
    "pi05": Family(Noise.GIVEN, guided=True, precision=True, extra="pi"),
    "pi0_fast": Family(precision=True, extra="pi"),
    "smolvla": Family(Noise.GIVEN, guided=True, extra="smolvla"),
    "tdmpc": Family(remembers=True),
    "vla_jepa": Family(extra="vla-jepa"),
    "vqbet": Family(remembers=True),
    "wall_x": Family(extra="wallx"),
    "xvla": Family(precision=True, extra="xvla"),
}
REFUSED = {
    "groot": "it is given no images but what a Qwen3-VL processor on the device made of them, and its "
    "postprocessor asks the same object for the state",
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
    if name == "xvla":
        _require_whole_padding(folder)
    return FAMILIES[name]


def _require_whole_padding(folder: PolicyFolder) -> None:
    """X-VLA looks at the padding of its prompts too, so its length is no choice of ours."""
    for entry in folder.preprocessor.steps:
        if entry.name == "tokenizer_processor" and entry.config.get("padding", "max_length") != "max_length":
            raise ModelLoadFailed(f"{entry.where}.padding: 'xvla' reads the padding too; only 'max_length' is served")
