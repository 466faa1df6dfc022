"""Actions relative to the state they were asked for, and back.

LeRobot links its two steps by a live object that every tick overwrites. Here the state travels in the request's
context, so that several requests may be under way. Formula: ``lerobot/processor/relative_action_processor.py`` (0.6.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import Feature
from inference_service.core.errors import InferenceFailed
from inference_service.core.files import check
from inference_service.core.policy_config import STATE
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processor_files import StepEntry

REFERENCE = "relative_actions"


@dataclass(frozen=True, eq=False)
class Reference:
    """What a chunk is relative to: ``state`` (1, D) as it was at the relative step, and which joints stay absolute."""

    state: NDArray[Any]
    excluded: tuple[str, ...]
    action_names: tuple[str, ...] | None

    def mask(self, action_dim: int) -> NDArray[np.bool_]:
        """(action_dim,) True where the action is relative. A name is excluded that contains an excluded word."""
        mask = np.ones(action_dim, np.bool_)
        if self.excluded and self.action_names is not None:
            for index, name in enumerate(self.action_names[:action_dim]):
                mask[index] = not any(word in name for word in self.excluded)
        return mask


@register("relative_actions_processor")
class RelativeActions(ProcessorStep):
    """Remembers the state for :class:`AbsoluteActions`. (What else LeRobot's does concerns demonstrated actions.)"""

    def __init__(self, excluded: tuple[str, ...], action_names: tuple[str, ...] | None) -> None:
        self._excluded = excluded
        self._action_names = action_names

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> RelativeActions:
        check_options(entry, ["enabled", "exclude_joints", "action_names"])
        excluded = check(entry.config.get("exclude_joints") or [], list, f"{entry.where}.exclude_joints")
        names = entry.config.get("action_names")
        if names is not None:
            names = tuple(str(name).lower() for name in check(names, list, f"{entry.where}.action_names"))
        return cls(tuple(str(word).lower() for word in excluded if word), names)

    def __call__(self, transition: Transition) -> None:
        state = transition.observation.get(STATE)
        if isinstance(state, np.ndarray):
            transition.context[REFERENCE] = Reference(state.copy(), self._excluded, self._action_names)


@register("absolute_actions_processor")
class AbsoluteActions(ProcessorStep):
    """Adds the state that :class:`RelativeActions` remembered for this request."""

    def __init__(self, where: str, enabled: bool) -> None:
        self._where = where
        self.enabled = enabled

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> AbsoluteActions:
        check_options(entry, ["enabled"])
        return cls(entry.where, check(entry.config.get("enabled", False), bool, f"{entry.where}.enabled"))

    def __call__(self, transition: Transition) -> None:
        if not self.enabled or transition.action is None:
            return
        reference = transition.context.get(REFERENCE)
        if not isinstance(reference, Reference):
            raise InferenceFailed(
                f"{self._where}: the request's context holds no state to which the actions are relative; hand over the "
                "context that the preprocessor gave, and have a relative_actions_processor in policy_preprocessor.json"
            )
        action = transition.action
        mask = reference.mask(action.shape[-1])
        if reference.state.shape[-1] < len(mask):
            raise InferenceFailed(
                f"{self._where}: {len(mask)} actions cannot be relative to a state of {reference.state.shape[-1]}"
            )
        offset = reference.state[..., : len(mask)].astype(action.dtype, copy=False) * mask.astype(action.dtype)
        transition.action = action + (offset[..., None, :] if action.ndim == 3 else offset)
