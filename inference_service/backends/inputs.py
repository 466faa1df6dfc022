"""A batch, checked against what the policy declares, before a runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import AffineImage, Batch, Feature, FeatureType, Value
from inference_service.core.errors import InferenceFailed


def check_inputs(batch: Batch, features: Mapping[str, Feature]) -> None:
    """Every declared feature is there, as one row of the declared shape.

    A picture of another size would be accepted by a convolution without a word, and give worse actions.

    Raises:
        InferenceFailed: naming the feature, its expected and its actual shape.
    """
    for name, feature in features.items():
        if feature.type is FeatureType.LANGUAGE:
            continue
        if name not in batch:
            raise InferenceFailed(f"the batch lacks '{name}'; it holds {', '.join(sorted(batch)) or 'nothing'}")
        actual, expected = tuple(getattr(batch[name], "shape", ())), (1, *feature.shape)
        if actual != expected:
            raise InferenceFailed(f"'{name}' has shape {actual}, the policy takes {expected}")


def as_array(value: Value) -> NDArray[Any]:
    """``value`` as a numpy array: affine images materialised, torch tensors brought to the CPU."""
    if isinstance(value, AffineImage):
        return value.materialise()
    if hasattr(value, "detach"):
        return np.asarray(value.detach().cpu())
    return np.asarray(value)


def check_chunk(chunk: NDArray[Any], expected: tuple[int, int], source: str) -> None:
    """Raise InferenceFailed unless ``chunk`` is (chunk_size, action_dim)."""
    if chunk.shape != expected:
        raise InferenceFailed(f"{source} returned actions of shape {chunk.shape}, its config.json promises {expected}")
