"""The device's end of our wire: preprocess, ask the engine, postprocess. What ``lerobot_policy_node`` does with an
observation, without the robot's streams before it and the action server after it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.folders import make_observation
from benchmarks.worker import Side, serve
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.device_setup import DeviceSetup
from inference_service.nodes.policy_runner import RemoteRunner
from inference_service.transport import create_node

READY_S = 40.0


@dataclass(frozen=True)
class Wire:
    cloud_inference_topic: str = "/preprocessed/batch"
    cloud_result_topic: str = "/inference/action"
    request_timeout: float = 20.0
    shared_memory: str = ""


class Device(Side):
    """Modes are codecs: ``u8``, ``f16``, ``f32``, ``jpeg:90``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        self._observation = make_observation(config["height"], config["width"])
        self._node = create_node("bench_device")
        folder = PolicyFolder.load(Path(config["folder"]))
        wire = Wire(shared_memory=config.get("shared_memory", ""))
        self._runner = RemoteRunner(self._node, DeviceSetup.without_robot(folder), wire, lambda: None)
        self._wait_for_engine()

    def _wait_for_engine(self) -> None:
        deadline = time.monotonic() + READY_S
        while (problem := self._runner.problem()) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no engine within {READY_S:g} s: {problem}")
            time.sleep(0.05)

    def select(self, mode: str) -> None:
        self._runner.set_encodings({"default": mode})

    def round(self) -> Mapping[str, float]:
        started = time.perf_counter()
        answer = self._runner.run(self._observation, time.time_ns())
        total = (time.perf_counter() - started) * 1e3
        return {"total": total, **answer.timing_ms}

    def close(self) -> None:
        self._runner.close()
        self._node.close()


def make(config: dict[str, Any]) -> Side:
    return Device(config)


if __name__ == "__main__":
    sys.exit(serve(make))
