"""Monolithic mode: preprocessor, engine and postprocessor in one process, tensors by reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from inference_service.core.batch import Batch, Float32, Observation
from inference_service.core.engine import InferenceResult
from inference_service.core.policy import NO_CONTEXT, InferenceContext
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor


@dataclass(frozen=True)
class CoordinatedResult:
    """``actions``: robot units, float32 (chunk_size, action_dim); ``normalised``: the same as the policy gave them.
    ``timing_ms``: preprocess, inference (waiting for the engine included), postprocess, and total."""

    actions: Float32
    timing_ms: dict[str, float]
    normalised: Float32 = field(repr=False)


MakeContext = Callable[[Mapping[str, Any]], InferenceContext]
"""An inference context out of what the preprocessor remembered of the observation."""


class Engine(Protocol):
    """As much of an engine as is needed here: PureInferenceEngine, or who keeps one."""

    def infer(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> InferenceResult: ...


class InferenceCoordinator:
    """Chains the three parts. Nothing is serialised, copied or kept between calls."""

    def __init__(self, preprocessor: TensorPreprocessor, engine: Engine, postprocessor: TensorPostprocessor) -> None:
        self._preprocessor = preprocessor
        self._engine = engine
        self._postprocessor = postprocessor

    def infer(self, observation: Observation, make_context: MakeContext = lambda _: NO_CONTEXT) -> CoordinatedResult:
        """Actions for one observation (see :class:`TensorPreprocessor`). Raises what its three parts raise."""
        marks = [time.perf_counter_ns()]
        prepared = self._preprocessor(observation)
        marks.append(time.perf_counter_ns())
        result = self._engine.infer(prepared.batch, make_context(prepared.context))
        marks.append(time.perf_counter_ns())
        actions = self._postprocessor(result.action, prepared.context)
        marks.append(time.perf_counter_ns())
        stages = zip(("preprocess", "inference", "postprocess"), marks, marks[1:], strict=False)
        timing = {stage: (end - start) / 1e6 for stage, start, end in stages}
        return CoordinatedResult(actions, timing | {"total": (marks[-1] - marks[0]) / 1e6}, result.action)
