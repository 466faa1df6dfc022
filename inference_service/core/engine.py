"""The engine: checks what goes into a policy and what comes out, and nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from inference_service.core.batch import AffineImage, Batch, Feature, FeatureType, Float32, Value
from inference_service.core.errors import (
    EngineFault,
    InferenceFailed,
    InferenceServiceError,
    InvalidObservation,
    MissingObservation,
)
from inference_service.core.grouping import groups
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy import (
    NO_CONTEXT,
    BatchingPolicy,
    InferenceContext,
    PolicySpec,
    PolicyWrapper,
    RecoverablePolicy,
    RememberingPolicy,
)
from inference_service.core.policy_config import ACTION
from inference_service.core.postprocessor import require_finite
from inference_service.core.rtc import check_left_over

_log = logging.getLogger(__name__)
_WARM_UP = "warm-up"
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
        self._check(batch, context)
        return self._infer(batch, context)

    def infer_many(
        self, requests: Sequence[tuple[Batch, InferenceContext]]
    ) -> list[InferenceResult | InferenceServiceError]:
        """One answer per request, in order, in as few forward passes as the policy allows.

        Requests of equal shapes share a pass, at most ``spec.max_batch`` of them; of a policy that looks back, one
        per session. A request that :meth:`infer` would refuse gets its error and harms no other; where a shared
        pass fails, each of its requests is tried alone. ``inference_ms`` is the whole pass's.
        """
        answers: dict[int, InferenceResult | InferenceServiceError] = {}
        good: list[int] = []
        for position, (batch, context) in enumerate(requests):
            try:
                self._check(batch, context)
                good.append(position)
            except InferenceServiceError as error:
                answers[position] = error
        together = groups(
            [requests[i] for i in good], max(1, self.spec.max_batch), one_per_session=self.spec.n_obs_steps > 1
        )
        for group in together:
            positions = [good[i] for i in group]
            answers.update(zip(positions, self._answer_group([requests[i] for i in positions]), strict=True))
        return [answers[position] for position in range(len(requests))]

    def forget(self, session: str) -> None:
        """Drop what the policy remembers of ``session``, after the inference in progress. No error where that is
        nothing."""
        if isinstance(self._policy, RememberingPolicy):
            with self._lock:
                self._policy.forget(session)

    def warm_up(self) -> InferenceResult:
        """Infer once on a made-up batch of the real shapes, so that the first request pays for nothing. Raises
        what :meth:`infer` raises: a policy that cannot answer this will answer no robot."""
        try:
            return self.infer(synthetic_batch(self.spec.input_features), InferenceContext(session=_WARM_UP))
        finally:
            self.forget(_WARM_UP)

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

    def _check(self, batch: Batch, context: InferenceContext) -> None:
        check_batch(batch, self.spec.input_features, self.spec.image_size)
        if context.earlier is not None:
            check_earlier(context.earlier, batch, self.spec)
        if context.left_over is None:
            return
        if not self.spec.supports_rtc:
            raise InvalidObservation(
                f"policy type '{self.spec.policy_type}' on backend '{self.spec.backend_type}' takes no left-over "
                "actions; switch real-time chunking off for it"
            )
        check_left_over(context.left_over, self.spec.chunk_size, self.spec.action_dim)

    def _infer(self, batch: Batch, context: InferenceContext) -> InferenceResult:
        """As :meth:`infer`, of what was checked."""
        with self._lock:
            self._require_open()
            start = time.perf_counter_ns()
            answer = self._policy.predict_action_chunk(batch, context)
            elapsed_ms = (time.perf_counter_ns() - start) / 1e6
        return InferenceResult(self._checked(answer), elapsed_ms)

    def _require_open(self) -> None:
        if self._closed:
            raise InferenceFailed("the engine is closed")

    def _answer_group(
        self, requests: Sequence[tuple[Batch, InferenceContext]]
    ) -> Sequence[InferenceResult | InferenceServiceError]:
        if len(requests) == 1 or not isinstance(self._policy, BatchingPolicy):
            return [self._answer(batch, context) for batch, context in requests]
        try:
            with self._lock:
                self._require_open()
                start = time.perf_counter_ns()
                chunks = self._policy.predict_action_chunks(requests)
                elapsed_ms = (time.perf_counter_ns() - start) / 1e6
            if len(chunks) != len(requests):
                raise InferenceFailed(f"{len(chunks)} chunks for {len(requests)} requests")
        except EngineFault as error:
            return [error] * len(requests)
        except InferenceServiceError as error:
            _log.warning("a pass for %d requests failed, trying them one by one: %s", len(requests), error)
            return [self._answer(batch, context) for batch, context in requests]
        return [self._result_of(chunk, elapsed_ms) for chunk in chunks]

    def _answer(self, batch: Batch, context: InferenceContext) -> InferenceResult | InferenceServiceError:
        try:
            return self._infer(batch, context)
        except InferenceServiceError as error:
            return error

    def _result_of(self, chunk: Any, elapsed_ms: float) -> InferenceResult | InferenceServiceError:
        try:
            return InferenceResult(self._checked(chunk), elapsed_ms)
        except InferenceServiceError as error:
            return error

    def _checked(self, answer: Any) -> Float32:
        action: Float32 = np.asarray(answer, np.float32)
        expected = (self.spec.chunk_size, self.spec.action_dim)
        if action.shape != expected:
            raise InferenceFailed(f"the {self.spec.backend_type} backend returned {action.shape}, expected {expected}")
        require_finite(action, "the policy's action")
        return action


def synthetic_batch(features: Mapping[str, Feature]) -> Batch:
    """Black images, zero vectors and an empty prompt of one token, in the shapes of ``features``."""
    batch: Batch = {"task": [""]}
    for name, feature in features.items():
        if feature.type is FeatureType.VISUAL:
            channels, height, width = feature.shape
            batch[name] = AffineImage(np.zeros((height, width, channels), np.uint8))
        elif feature.type is FeatureType.LANGUAGE:
            batch[name] = _one_token(name, feature.shape)
        else:
            batch[name] = np.zeros((1, *feature.shape), np.float32)
    return batch


def _one_token(name: str, shape: tuple[int, ...]) -> Value:
    """Token 0 and then padding; of a mask, that one true."""
    if not name.endswith("mask"):
        return np.zeros((1, *shape), np.int64)
    mask = np.zeros((1, *shape), np.bool_)
    mask[..., :1] = True
    return mask


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


def check_earlier(earlier: Sequence[Batch], batch: Batch, spec: PolicySpec) -> None:
    """Whether ``earlier`` may stand before ``batch``: the same inputs, in the same shapes.

    Raises:
        MissingObservation: an input is absent.
        InvalidObservation: more observations than the policy looks back on, an unknown entry, another shape than in
            ``batch``, or not finite.
    """
    if len(earlier) > spec.earlier_observations:
        raise InvalidObservation(
            f"{len(earlier)} earlier observations; policy type '{spec.policy_type}' on backend '{spec.backend_type}' "
            f"takes {spec.earlier_observations}"
        )
    features = {name: f for name, f in spec.input_features.items() if f.type is not FeatureType.LANGUAGE}
    for frame in earlier:
        check_batch(frame, features, spec.image_size)
        for name in features:
            before, now = (tuple(getattr(entries[name], "shape", ())) for entries in (frame, batch))
            if before != now:
                raise InvalidObservation(f"'{name}': {before} earlier, {now} now")


def _must_be_declared(name: str) -> bool:
    """Steps may add to a batch what the features do not list: tokens, the prompt, and names without a dot."""
    return name == ACTION or ("." in name and not name.startswith(_LANGUAGE_PREFIX))


def _check_value(name: str, feature: Feature, value: Value, image_size: tuple[int, int] | None) -> None:
    shape = tuple(getattr(value, "shape", ()))
    resized = feature.type is FeatureType.VISUAL and image_size and shape == (1, feature.shape[0], *image_size)
    if shape != (1, *feature.shape) and not resized and not _is_shorter_prompt(feature, shape):
        raise InvalidObservation(
            f"'{name}': expected shape {(1, *feature.shape)}, got {shape} ({type(value).__name__})"
        )
    if isinstance(value, AffineImage):
        if not _is_finite(value.norm, feature.shape[0]):
            raise InvalidObservation(f"'{name}': holds NaN or infinity")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind != "f" and feature.type is not FeatureType.LANGUAGE:
            raise InvalidObservation(f"'{name}': expected floats, got {value.dtype}")
        _check_finite(name, value)
    elif isinstance(value, list) or not bool(value.isfinite().all()):
        raise InvalidObservation(f"'{name}': holds NaN or infinity")


def _is_shorter_prompt(feature: Feature, shape: tuple[int, ...]) -> bool:
    """Tokens without their padding, as LeRobot's steps give them where they pad to the longest of a batch."""
    if feature.type is not FeatureType.LANGUAGE or len(shape) != 2 or len(feature.shape) != 1:
        return False
    return shape[0] == 1 and 1 <= shape[1] <= feature.shape[0]


@lru_cache(maxsize=64)
def _is_finite(norm: ImageNorm, channels: int) -> bool:
    """Whether every pixel value becomes a finite one: the same from one picture of a camera to the next."""
    return bool(np.isfinite(norm.table(channels)).all())


def _check_finite(name: str, value: Any) -> None:
    # A finite sum means finite terms and costs a fraction of looking at each; an infinite one may also be overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        total = value.sum()
    if not np.isfinite(total) and not np.isfinite(value).all():
        raise InvalidObservation(f"'{name}': holds NaN or infinity")
