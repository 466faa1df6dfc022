"""Actions left over from one chunk, made relative to the state of the next request (real-time chunking)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_service.core.batch import Float32
from inference_service.core.policy_config import ACTION
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.processing.normalise import Normalise
from inference_service.core.processing.relative import REFERENCE, AbsoluteActions, Reference
from inference_service.core.processing.step import Transition


class Reanchor:
    """For a policy whose actions are relative to the state they were asked for: what is left of a chunk was relative
    to an earlier one. Formula: ``lerobot/policies/rtc/relative.py`` (0.6.1)."""

    def __init__(self, folder: PolicyFolder) -> None:
        """
        Raises:
            PolicyError: the normaliser's statistics for actions are missing.
        """
        action = {ACTION: folder.config.output_features[ACTION]}
        entries = [entry for entry in folder.preprocessor.steps if entry.name == "normalizer_processor"]
        self._normalise = Normalise.build(entries[0], action) if entries else None

    @classmethod
    def needed(cls, folder: PolicyFolder) -> Reanchor | None:
        """None for a policy whose actions are absolute."""
        relative = any(isinstance(step, AbsoluteActions) and step.enabled for step in folder.pipelines[1].steps)
        return cls(folder) if relative else None

    def __call__(self, absolute: Float32, context: Mapping[str, Any]) -> Float32 | None:
        """``absolute`` (n, action_dim) as the postprocessor gave it; normalised, relative to the state in ``context``,
        that of the request which will carry it. None where that holds no state, as with LeRobot's own pipelines."""
        reference = context.get(REFERENCE)
        if not isinstance(reference, Reference):
            return None
        mask = reference.mask(absolute.shape[-1])
        offset = reference.state[..., : len(mask)].astype(absolute.dtype) * mask.astype(absolute.dtype)
        transition = Transition(action=(absolute - offset)[None])
        if self._normalise is not None:
            self._normalise(transition)
        result: Float32 = np.ascontiguousarray(transition.action[0], np.float32)
        return result
