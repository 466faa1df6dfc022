"""Our own local path: the coordinator that ``lerobot_policy_node`` runs in monolithic mode."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.constant import ConstantPolicy
from benchmarks.folders import DEMO_POLICY, make_observation
from benchmarks.worker import Side, serve
from inference_service.backends.registry import load_policy
from inference_service.core.coordinator import InferenceCoordinator
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.transport.dds.native import keep_freed_memory


class Local(Side):
    """Modes ``float`` and ``uint8``: a policy that costs nothing. With ``device``: the demonstration's, ``real``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        keep_freed_memory()  # as every node's transport does
        folder = PolicyFolder.load(Path(config.get("folder") or DEMO_POLICY))
        if "device" in config:
            engine = PureInferenceEngine(load_policy(folder, config["device"]))
            engine.warm_up()
            self.info.update(backend=engine.spec.backend_type, device=engine.spec.device)
            self._engines = {"real": engine}
        else:
            self._engines = {mode: PureInferenceEngine(ConstantPolicy(folder, mode)) for mode in ("float", "uint8")}
        self._coordinators = {mode: _coordinator(folder, engine) for mode, engine in self._engines.items()}
        self._coordinator = next(iter(self._coordinators.values()))
        self._observation = make_observation(config.get("height", 480), config.get("width", 640))

    def select(self, mode: str) -> None:
        self._coordinator = self._coordinators[mode]

    def round(self) -> Mapping[str, float]:
        started = time.perf_counter()
        timing = self._coordinator.infer(self._observation).timing_ms
        total = (time.perf_counter() - started) * 1e3
        return {**timing, "total": total, "outside": total - timing["inference"]}

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


def _coordinator(folder: PolicyFolder, engine: PureInferenceEngine) -> InferenceCoordinator:
    return InferenceCoordinator(TensorPreprocessor(folder), engine, TensorPostprocessor(folder))


def make(config: dict[str, Any]) -> Side:
    return Local(config)


if __name__ == "__main__":
    sys.exit(serve(make))
