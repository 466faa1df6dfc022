"""Where a prepared batch becomes a chunk: in this process, or behind the wire."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inference_service.backends.registry import load_policy, require_known
from inference_service.core.batch import Batch, Float32
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import EngineUnavailable, InferenceServiceError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.engine_client import EngineClient
from inference_service.nodes.runtime import yield_to_control
from inference_service.transport.protocol import Node


@dataclass(frozen=True)
class Answer:
    """A normalised chunk, float32 (chunk, action_dim), and the stages between (ms): wire, queue, decode,
    inference, encode; those that do not apply are absent."""

    action: Float32
    timing_ms: dict[str, float]


class Runner(Protocol):
    def run(self, batch: Batch, prompt: str | None, obs_stamp_ns: int) -> Answer:
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
        self._engine: PureInferenceEngine | None = None
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
            self._engine, self._problem = engine, None
            self._logger.info("Engine loaded: %s on %s (%s)", spec.policy_type, spec.device, spec.backend_type)
        self._on_change()

    def run(self, batch: Batch, prompt: str | None, obs_stamp_ns: int) -> Answer:
        if self._engine is None:
            raise EngineUnavailable(self._problem or "engine is closed")
        result = self._engine.infer(batch)
        return Answer(result.action, {"inference": result.inference_ms})

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
    """Distributed: an asynchronous proxy of the engine on the other side."""

    def __init__(self, node: Node, fingerprint: str, parameters: WireParameters, on_change: Callable[[], None]) -> None:
        self._timeout_s = parameters.request_timeout
        self._client = EngineClient(
            node, fingerprint, parameters.cloud_inference_topic, parameters.cloud_result_topic, on_change
        )

    def run(self, batch: Batch, prompt: str | None, obs_stamp_ns: int) -> Answer:
        answer = self._client.infer(batch, prompt=prompt, obs_stamp_ns=obs_stamp_ns, timeout_s=self._timeout_s)
        on_engine = sum(answer.timing_ms.values())
        return Answer(answer.action, {**answer.timing_ms, "wire": max(0.0, answer.round_trip_ms - on_engine)})

    def problem(self) -> str | None:
        return self._client.problem()

    def values(self) -> dict[str, str]:
        return {f"dropped_{kind}": str(n) for kind, n in self._client.dropped.items()}

    def close(self) -> None:
        """Nothing to release: the node owns the endpoints."""
