"""Monolithic mode: an observation becomes a chunk in this process. A device whose engine is elsewhere does not import
it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference_service.backends.registry import load_policy, require_known
from inference_service.core.batch import Observation
from inference_service.core.coordinator import InferenceCoordinator
from inference_service.core.errors import EngineUnavailable
from inference_service.core.policy import InferenceContext
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.device_setup import DeviceSetup
from inference_service.nodes.engine_host import EngineHost
from inference_service.nodes.policy_runner import Answer, prepare_earlier
from inference_service.nodes.runtime import monotonic_ms, yield_to_control
from inference_service.wire.card import EngineState

KEEP_PERIOD_S = 0.2
"""How often an engine in this process is looked after."""


class LocalRunner:
    """Monolithic: the engine in this process, loaded, warmed up and after a fault started again on a thread of its
    own."""

    def __init__(
        self,
        setup: DeviceSetup,
        device: str,
        threads: int,
        logger: logging.Logger,
        on_change: Callable[[], None],
    ) -> None:
        folder = setup.folder
        require_known(device, folder)
        self._preprocessor = TensorPreprocessor(folder)
        self._postprocessor = TensorPostprocessor(folder)
        self._continuity = setup.continuity(logger)
        self._logger = logger
        self._on_change = on_change
        self._host = EngineHost(
            lambda: load_policy(folder, device, threads=threads, **setup.backend_options), logger, self._changed
        )
        self._coordinator = InferenceCoordinator(self._preprocessor, self._host, self._postprocessor)
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="loader", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        """Load, and start again what broke."""
        yield_to_control()
        self._host.start()
        while not self._closing.wait(KEEP_PERIOD_S):
            self._host.watch()
            self._host.tend()

    def _changed(self) -> None:
        spec = self._host.spec
        if self._host.state is EngineState.READY and spec:
            self._logger.info("Engine loaded: %s on %s (%s)", spec.policy_type, spec.device, spec.backend_type)
        self._on_change()

    def begin(self, inference_id: str) -> str:
        ended = self._continuity.begin(inference_id)
        if ended is not None:
            self._host.forget(ended)
        return self._continuity.session

    @property
    def looks_back(self) -> int:
        spec = self._host.spec
        return spec.earlier_observations if spec else 0

    def run(self, observation: Observation, obs_stamp_ns: int, earlier: Sequence[Observation] = ()) -> Answer:
        continuity, spec = self._continuity, self._host.spec
        problem = self._host.problem
        if problem or spec is None:
            raise EngineUnavailable(problem or "engine is LOADING")
        started = monotonic_ms()
        session, supports_rtc = continuity.session, spec.supports_rtc
        before = prepare_earlier(self._preprocessor, earlier) if spec.earlier_observations else None

        def context(prepared: Mapping[str, Any]) -> InferenceContext:
            return replace(continuity.context(obs_stamp_ns, prepared, supports_rtc), earlier=before)

        result = self._coordinator.infer(observation, context)
        continuity.remember(session, obs_stamp_ns, result.normalised, result.actions, monotonic_ms() - started)
        return Answer(result.actions, result.timing_ms)

    def problem(self) -> str | None:
        return self._host.problem

    def values(self) -> dict[str, str]:
        spec = self._host.spec
        shown = {"backend_type": spec.backend_type, "device": spec.device} if spec else {}
        return {**shown, "engine_faults": str(self._host.faults)}

    def close(self) -> None:
        self._host.drain()
        self._closing.set()
        self._keeper.join(timeout=5.0)
        if not self._keeper.is_alive():
            self._host.close()
