"""The engine: checks what goes into a policy and what comes out, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference_service.core.batch import AffineImage, Batch, Feature, FeatureType, Float32, Value
from inference_service.core.errors import EngineFault, InferenceFailed, InvalidObservation, MissingObservation
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec, PolicyWrapper, RecoverablePolicy
from inference_service.core.policy_config import ACTION
from inference_service.core.postprocessor import require_finite

# What language steps add to a batch; a policy's features do not list them.
_LANGUAGE_PREFIX = "observation.language."


@dataclass(frozen=True)
class InferenceResult:
    """``action``: normalised, float32 (chunk_size, action_dim). ``inference_ms``: the forward pass alone."""

    action: Float32
    inference_ms: float


class PureInferenceEngine:
    """A policy behind a lock. Keeps nothing itself; what a policy remembers of a session is the policy's."""

    def __init__(self, policy: PolicyWrapper) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._closed = False
        self.spec: PolicySpec = policy.spec

    def infer(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> InferenceResult:
        """One forward pass. The batch reaches the policy by reference.

        Raises:
            MissingObservation: a feature of the policy is absent.
            InvalidObservation: unknown entry, wrong shape or type, or not finite.
            InferenceFailed: the runtime failed, or answered with another shape than (chunk_size, action_dim).
            NonFiniteAction: the model returned NaN or infinity.
        """
        check_batch(batch, self.spec.input_features, self.spec.image_size)
        with self._lock:
            if self._closed:
                raise InferenceFailed("the engine is closed")
            start = time.perf_counter_ns()
            answer = self._policy.predict_action_chunk(batch, context)
            elapsed_ms = (time.perf_counter_ns() - start) / 1e6
        return InferenceResult(self._checked(answer), elapsed_ms)

    def warm_up(self) -> InferenceResult:
        """Infer once on a made-up batch of the real shapes, so that the first request pays for nothing. Raises
        what :meth:`infer` raises: a policy that cannot answer this will answer no robot."""
        return self.infer(synthetic_batch(self.spec.input_features))

    def recover(self) -> InferenceResult:
        """Start a runtime again that answered with EngineFault, and warm it up. May be tried as often as one likes.

        Raises:
            EngineFault: the runtime cannot be started now, or never in this process; the message says which.
            InferenceFailed: it started, and the warm-up failed (as :meth:`warm_up`).
        """
        with self._lock:
            if self._closed:
                raise EngineFault("the engine is closed")
            if not isinstance(self._policy, RecoverablePolicy):
                raise EngineFault(f"backend '{self.spec.backend_type}' starts again only with a new process")
            self._policy.recover()
        return self.warm_up()

    def close(self) -> None:
        """Release the policy, after the inference in progress. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._policy.close()

    def _checked(self, answer: Any) -> Float32:
        action: Float32 = np.asarray(answer, np.float32)
        expected = (self.spec.chunk_size, self.spec.action_dim)
        if action.shape != expected:
            raise InferenceFailed(f"the {self.spec.backend_type} backend returned {action.shape}, expected {expected}")
        require_finite(action, "the policy's action")
        return action


def synthetic_batch(features: Mapping[str, Feature]) -> Batch:
    """Black images, zero vectors and an empty prompt, in the shapes of ``features``."""
    batch: Batch = {"task": [""]}
    for name, feature in features.items():
        if feature.type is FeatureType.VISUAL:
            channels, height, width = feature.shape
            batch[name] = AffineImage(np.zeros((height, width, channels), np.uint8))
        else:
            batch[name] = np.zeros((1, *feature.shape), np.float32)
    return batch


def check_batch(batch: Batch, features: Mapping[str, Feature], image_size: tuple[int, int] | None = None) -> None:
    """Whether ``batch`` (of one) is what a policy with ``features`` takes. Arrays and torch tensors alike.
    ``image_size``: (height, width) in which images may come too.

    Raises:
        MissingObservation: a feature is absent.
        InvalidObservation: unknown entry, wrong shape or type, or not finite.
    """
    missing = [name for name in features if name not in batch]
    if missing:
        raise MissingObservation(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch) or 'nothing'}")
    extra = [name for name in batch if name not in features and _must_be_declared(name)]
    if extra:
        raise InvalidObservation(f"the policy has no input {', '.join(extra)}; it takes {', '.join(features)}")
    for name, feature in features.items():
        _check_value(name, feature, batch[name], image_size)


def _must_be_declared(name: str) -> bool:
    """Steps may add to a batch what the features do not list: tokens, the prompt, and names without a dot."""
    return name == ACTION or ("." in name and not name.startswith(_LANGUAGE_PREFIX))


def _check_value(name: str, feature: Feature, value: Value, image_size: tuple[int, int] | None) -> None:
    shape = tuple(getattr(value, "shape", ()))
    resized = feature.type is FeatureType.VISUAL and image_size and shape == (1, feature.shape[0], *image_size)
    if shape != (1, *feature.shape) and not resized:
        raise InvalidObservation(
            f"'{name}': expected shape {(1, *feature.shape)}, got {shape} ({type(value).__name__})"
        )
    if isinstance(value, AffineImage):
        _check_finite(name, value.norm.table(feature.shape[0]))
    elif isinstance(value, np.ndarray):
        if value.dtype.kind != "f" and feature.type is not FeatureType.LANGUAGE:
            raise InvalidObservation(f"'{name}': expected floats, got {value.dtype}")
        _check_finite(name, value)
    elif isinstance(value, list) or not bool(value.isfinite().all()):
        raise InvalidObservation(f"'{name}': holds NaN or infinity")


def _check_finite(name: str, value: Any) -> None:
    # A finite sum means finite terms and costs a fraction of looking at each; an infinite one may also be overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        total = value.sum()
    if not np.isfinite(total) and not np.isfinite(value).all():
        raise InvalidObservation(f"'{name}': holds NaN or infinity")
