"""A policy that costs nothing, so that what is left of a request's time is the path to the model and back.

``device:=constant`` touches no input; ``constant:float`` turns the images into the model's float32 tensors, which is
what every CPU backend does first.
"""

from __future__ import annotations

import numpy as np

from inference_service.core.batch import AffineImage, Batch, Float32
from inference_service.core.policy import NO_CONTEXT, BackendOptions, InferenceContext, PolicySpec
from inference_service.core.policy_folder import PolicyFolder


class ConstantPolicy:
    """Implements :class:`~inference_service.core.policy.PolicyWrapper`."""

    def __init__(self, folder: PolicyFolder, device: str) -> None:
        config = folder.config
        self.spec = PolicySpec(
            policy_type=config.type,
            backend_type="constant",
            device=device,
            chunk_size=config.chunk_size,
            action_dim=config.action_dim,
            input_features=config.input_features,
        )
        self._floats = device == "float"
        self._tensors: dict[str, Float32] = {}
        self._action: Float32 = np.linspace(-1, 1, config.chunk_size * config.action_dim, dtype=np.float32).reshape(
            config.chunk_size, config.action_dim
        )

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        if self._floats:
            for name, value in batch.items():
                if isinstance(value, AffineImage):
                    self._tensors[name] = value.materialise(self._tensors.get(name))
        return self._action

    def close(self) -> None:
        """Nothing to release."""


def load(folder: PolicyFolder, options: BackendOptions) -> ConstantPolicy:
    """Entry point of the backend ``constant``."""
    return ConstantPolicy(folder, options.device)
