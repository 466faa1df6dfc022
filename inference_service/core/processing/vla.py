"""Steps of LeRobot's larger families: EO-1, Evo-1, VLA-JEPA and Wall-X.

Formulas: ``lerobot/policies/<family>/processor_<family>.py`` (0.6.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inference_service.core.batch import Feature, Float32
from inference_service.core.errors import PolicyFolderError
from inference_service.core.files import check
from inference_service.core.policy_config import ACTION
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processor_files import StepEntry

TASK = "task"


@register("eo1_conversation_template_processor")
@register("eo1_qwen_processor")
class LeftToTheEngine(ProcessorStep):
    """What only the model's own processor can do: the engine does it with what arrives."""

    needs_prompt = True

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> LeftToTheEngine:
        return cls()

    def __call__(self, transition: Transition) -> None:
        pass


@register("evo1_pad_state_processor")
@register("evo1_pad_action_processor")
class PaddedByTheModel(ProcessorStep):
    """Zeros behind the state, to the width that the model pads to anyway; their statistics leave them zero."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> PaddedByTheModel:
        check_options(entry, ["max_state_dim", "max_action_dim"])
        return cls()

    def __call__(self, transition: Transition) -> None:
        pass


@register("wall_x_task_processor")
class FullStop(ProcessorStep):
    """Ends the prompt with a full stop where it has none."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> FullStop:
        check_options(entry, [])
        return cls()

    def __call__(self, transition: Transition) -> None:
        task = transition.complementary.get(TASK)
        if isinstance(task, str):
            transition.complementary[TASK] = _ended(task)
        elif task is not None:
            transition.complementary[TASK] = [_ended(text) for text in task]


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


@register("vla_jepa_clip_actions")
class ClipActions(ProcessorStep):
    """Normalised actions between -1 and 1."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> ClipActions:
        check_options(entry, [])
        return cls()

    def __call__(self, transition: Transition) -> None:
        transition.action = np.clip(transition.action, np.float32(-1), np.float32(1))


class _Gripper(ProcessorStep):
    """One dimension has two values; nothing where the action is too short to have it."""

    def __init__(self, dimension: int, threshold: float) -> None:
        self._dimension = dimension
        self._threshold = np.float32(threshold)

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> _Gripper:
        check_options(entry, ["gripper_dim", "threshold"])
        dimension = check(entry.config.get("gripper_dim", 6), int, f"{entry.where}.gripper_dim")
        threshold = entry.config.get("threshold", 0.5)
        if dimension < 0 or not isinstance(threshold, (int, float)):
            raise PolicyFolderError(
                f"{entry.where}: gripper_dim {dimension!r} and threshold {threshold!r} must be numbers"
            )
        return cls(dimension, float(threshold))

    def __call__(self, transition: Transition) -> None:
        if transition.action.shape[-1] > self._dimension:
            transition.action = transition.action.copy()
            self._snap(transition.action[..., self._dimension])

    def _snap(self, gripper: Float32) -> None:
        raise NotImplementedError


@register("vla_jepa_pre_snap_gripper")
class SnapGripper(_Gripper):
    """1 from the threshold on, else 0; before un-normalising."""

    def _snap(self, gripper: Float32) -> None:
        gripper[...] = gripper >= self._threshold


@register("vla_jepa_binarize_gripper")
class BinariseGripper(_Gripper):
    """-1 above the threshold, else 1; after un-normalising."""

    def _snap(self, gripper: Float32) -> None:
        gripper[...] = 1 - 2 * (gripper > self._threshold).astype(np.float32)


@register("evo1_action_processor")
class Evo1Action(ProcessorStep):
    """The robot's own dimensions, which is all that the engine answers, and a gripper of two values where wanted."""

    def __init__(self, gripper: int | None, threshold: float, below: float, above: float) -> None:
        self._gripper = gripper
        self._threshold, self._below, self._above = (np.float32(value) for value in (threshold, below, above))

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> Evo1Action:
        names = ["gripper_threshold", "gripper_below_threshold_value", "gripper_above_threshold_value"]
        check_options(entry, ["action_dim", "binarize_gripper", "gripper_index", *names])
        own, declared = entry.config.get("action_dim"), features[ACTION].shape[0]
        if own != declared:
            raise PolicyFolderError(f"{entry.where}.action_dim: {own!r}, but config.json declares {declared}")
        index = check(entry.config.get("gripper_index", 6), int, f"{entry.where}.gripper_index")
        binarise = check(entry.config.get("binarize_gripper", False), bool, f"{entry.where}.binarize_gripper")
        if binarise and not 0 <= index < declared:
            raise PolicyFolderError(f"{entry.where}.gripper_index: {index} is none of {declared} actions")
        values = [float(entry.config.get(name, default)) for name, default in zip(names, (0.5, 1.0, -1.0), strict=True)]
        return cls(index if binarise else None, *values)

    def __call__(self, transition: Transition) -> None:
        if self._gripper is not None:
            transition.action = transition.action.copy()
            gripper = transition.action[..., self._gripper]
            gripper[...] = np.where(gripper > self._threshold, self._above, self._below)
