"""From the policy's normalised actions to the robot's units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_service.core.batch import Float32
from inference_service.core.errors import InferenceFailed, NonFiniteAction
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.processing import Transition


class TensorPostprocessor:
    """Runs a policy's ``policy_postprocessor.json`` on action chunks. Keeps no state of a request."""

    def __init__(self, folder: PolicyFolder) -> None:
        """
        Raises:
            PolicyError: the pipeline cannot be executed exactly as LeRobot would.
        """
        self._action_dim = folder.config.action_dim
        self._pipeline = folder.pipelines[1]

    def __call__(self, action: Float32, context: Mapping[str, Any] | None = None) -> Float32:
        """Actions (chunk, action_dim) in robot units; ``context`` is that of the batch the actions answer.

        Raises:
            InferenceFailed: ``action`` has another shape.
            NonFiniteAction: NaN or infinity before or after.
        """
        action = np.asarray(action, np.float32)
        if action.ndim != 2 or action.shape[1] != self._action_dim or not len(action):
            raise InferenceFailed(f"expected an action chunk (n, {self._action_dim}), got {action.shape}")
        require_finite(action, "the policy's action")
        transition = Transition(action=action[None], context=dict(context or {}))
        self._pipeline(transition)
        result: Float32 = np.ascontiguousarray(transition.action[0], np.float32)
        require_finite(result, "the action in robot units")
        return result


def require_finite(action: Float32, what: str) -> None:
    """
    Raises:
        NonFiniteAction: naming the first step and dimension at fault.
    """
    finite = np.isfinite(action)
    if not finite.all():
        step, dimension = np.argwhere(~finite)[0].tolist()
        raise NonFiniteAction(
            f"{what} is {action[step, dimension]} at step {step}, dimension {dimension}; not executed"
        )
