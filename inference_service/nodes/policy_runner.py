"""Where an observation becomes a chunk: all in this process, or with the engine behind the wire."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inference_service.backends.registry import load_policy, require_known
from inference_service.core.batch import Float32, Observation
from inference_service.core.coordinator import InferenceCoordinator
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import EngineUnavailable, InferenceServiceError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.engine_client import EngineClient
from inference_service.nodes.runtime import monotonic_ms, yield_to_control
from inference_service.transport.protocol import Node


@dataclass(frozen=True)
class Answer:
    """A chunk in the policy's units, float32 (chunk, action_dim), and its stages (ms): preprocess, wire, queue,
    decode, inference, encode, postprocess; those that do not apply are absent."""

    actions: Float32
    timing_ms: dict[str, float]


class Runner(Protocol):
    def run(self, observation: Observation, obs_stamp_ns: int) -> Answer:
        """Raises an :class:`InferenceServiceError`; returns within the request's deadline when distributed."""
        ...

    def problem(self) -> str | None:
        """Why a batch given now would be refused, or None."""
        ...

    def values(self) -> dict[str, str]:
        """For diagnostics."""
        ...

    def close(self) -> None: ...


class LocalRunner:
    """Monolithic: the engine in this process, loaded and warmed up on a thread of its own."""

    def __init__(
        self,
        folder: PolicyFolder,
        device: str,
        threads: int,
        logger: logging.Logger,
        on_change: Callable[[], None],
    ) -> None:
        require_known(device, folder)
        self._preprocessor = TensorPreprocessor(folder)
        self._postprocessor = TensorPostprocessor(folder)
        self._engine: PureInferenceEngine | None = None
        self._coordinator: InferenceCoordinator | None = None
        self._problem: str | None = "engine is LOADING"
        self._logger = logger
        self._on_change = on_change
        self._loader = threading.Thread(target=self._load, args=(folder, device, threads), name="loader", daemon=True)
        self._loader.start()

    def _load(self, folder: PolicyFolder, device: str, threads: int) -> None:
        yield_to_control()
        try:
            engine = PureInferenceEngine(load_policy(folder, device, threads=threads))
            self._problem = "engine is WARMING_UP"
            engine.warm_up()
        except Exception as error:
            self._logger.error(
                "Engine failed to load: %s", error, exc_info=not isinstance(error, InferenceServiceError)
            )
            self._problem = f"engine is FAULT: {error}"
        else:
            spec = engine.spec
            self._coordinator = InferenceCoordinator(self._preprocessor, engine, self._postprocessor)
            self._engine, self._problem = engine, None
            self._logger.info("Engine loaded: %s on %s (%s)", spec.policy_type, spec.device, spec.backend_type)
        self._on_change()

    def run(self, observation: Observation, obs_stamp_ns: int) -> Answer:
        if self._coordinator is None or self._problem:
            raise EngineUnavailable(self._problem or "engine is closed")
        result = self._coordinator.infer(observation)
        return Answer(result.actions, result.timing_ms)

    def problem(self) -> str | None:
        return self._problem

    def values(self) -> dict[str, str]:
        spec = self._engine.spec if self._engine else None
        return {"backend_type": spec.backend_type, "device": spec.device} if spec else {}

    def close(self) -> None:
        self._loader.join(timeout=5.0)
        if self._engine is not None:
            self._engine.close()
            self._engine, self._problem = None, "engine is closed"


class WireParameters(Protocol):
    @property
    def cloud_inference_topic(self) -> str: ...
    @property
    def cloud_result_topic(self) -> str: ...
    @property
    def request_timeout(self) -> float: ...


class RemoteRunner:
    """Distributed: pre- and postprocessing here, an asynchronous proxy of the engine on the other side."""

    def __init__(
        self, node: Node, folder: PolicyFolder, parameters: WireParameters, on_change: Callable[[], None]
    ) -> None:
        self._preprocessor = TensorPreprocessor(folder)
        self._postprocessor = TensorPostprocessor(folder)
        self.timeout_s = parameters.request_timeout
        self._client = EngineClient(
            node, folder.fingerprint, parameters.cloud_inference_topic, parameters.cloud_result_topic, on_change
        )

    def set_timeout(self, seconds: float) -> None:
        """For requests from now on. Raises ValueError for what cannot work."""
        if not 0 < seconds < float("inf"):
            raise ValueError(f"request_timeout {seconds} s must be above 0 and finite")
        self.timeout_s = seconds

    def run(self, observation: Observation, obs_stamp_ns: int) -> Answer:
        started = monotonic_ms()
        prepared = self._preprocessor(observation)
        preprocessed = monotonic_ms()
        answer = self._client.infer(
            prepared.batch, prompt=observation.get("task"), obs_stamp_ns=obs_stamp_ns, timeout_s=self.timeout_s
        )
        answered = monotonic_ms()
        actions = self._postprocessor(answer.action, prepared.context)
        wire = max(0.0, answer.round_trip_ms - sum(answer.timing_ms.values()))
        here = {"preprocess": preprocessed - started, "postprocess": monotonic_ms() - answered}
        return Answer(actions, {**answer.timing_ms, **here, "wire": wire})

    def problem(self) -> str | None:
        return self._client.problem()

    def values(self) -> dict[str, str]:
        return {f"dropped_{kind}": str(n) for kind, n in self._client.dropped.items()}

    def close(self) -> None:
        """Nothing to release: the node owns the endpoints."""
