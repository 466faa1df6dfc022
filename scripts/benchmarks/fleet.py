"""Simulated devices in one process: each executes its chunk at 20 Hz and asks the engine for the next one.

A device does what a dispatcher does, without a robot: one action a tick, a hold where it has none, one request in
flight at most, the chunk taken up at the step that it was computed for. They share one DDS participant and differ by
their session, as an engine sees them.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.folders import make_observation
from benchmarks.measure import percentile
from benchmarks.worker import Side, serve
from inference_service.core.batch import AffineImage, Batch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.transport import create_node
from inference_service.transport.protocol import Message, QoS
from inference_service.wire.envelope import (
    EngineState,
    Request,
    card_from_status,
    decode_reply,
    encode_request,
)

HZ = 20.0
GIVE_UP_S = 2.0
READY_S = 60.0
WARM_S = 1.0


@dataclass
class SimulatedDevice:
    """``replan``: ticks between requests; 1 asks again as soon as an answer is there."""

    number: int
    batch: Batch
    chunk: int
    replan: int
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    step: int = 0
    chunk_start: int = -(10**9)
    pending: tuple[str, int, float] | None = None
    asked_at: int = -(10**9)
    latencies_ms: list[float] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)
    holds: int = 0
    refused: int = 0

    def tick(self) -> Request | None:
        """Execute one step; the request to send now, if any."""
        self.step += 1
        age = self.step - self.chunk_start
        if age >= self.chunk:
            self.holds += 1
        else:
            self.ages.append(age)
        now = time.perf_counter()
        if self.pending is not None and now - self.pending[2] > GIVE_UP_S:
            self.pending, self.refused = None, self.refused + 1
        if self.pending is not None or self.step - self.asked_at < self.replan:
            return None
        self.asked_at = self.step
        self.pending = (uuid.uuid4().hex, self.step, now)
        return Request(
            self.pending[0],
            self.batch,
            device_id=f"bench_device_{self.number}@{self.session[:8]}",
            session=self.session,
            sequence=self.step,
            deadline_ms=GIVE_UP_S * 1e3,
            obs_stamp_ns=time.time_ns(),
        )

    def answered(self, request_id: str, good: bool) -> None:
        pending = self.pending
        if pending is None or pending[0] != request_id:
            return
        self.pending = None
        if good:
            self.latencies_ms.append((time.perf_counter() - pending[2]) * 1e3)
            self.chunk_start = pending[1]
        else:
            self.refused += 1

    def begin(self) -> None:
        """From here on it counts."""
        self.latencies_ms, self.ages, self.holds, self.refused = [], [], 0, 0


class Fleet(Side):
    """A mode is ``DEVICES/REPLAN``; a round drives that fleet for ``seconds``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        self._seconds = config["seconds"]
        self._codec = config.get("codec", "u8")
        folder = PolicyFolder.load(Path(config["folder"]))
        self._chunk = config.get("chunk") or folder.config.chunk_size
        preprocess = TensorPreprocessor(folder)
        _, height, width = folder.config.input_features["observation.images.top"].shape
        self._batches = [preprocess(make_observation(height, width, seed)).batch for seed in range(4)]
        self._devices: dict[str, SimulatedDevice] = {}
        self._mode = (1, 1)
        self._ready = threading.Event()
        self._node = create_node("bench_fleet")
        self._publisher = self._node.create_publisher("/preprocessed/batch", VARIANTS)
        self._node.create_subscription("/inference/action", VARIANTS, self._on_reply, QoS(depth=64), group="replies")
        status = "diagnostic_msgs/msg/DiagnosticStatus"
        latched = QoS(depth=8, durability="transient_local")
        self._node.create_subscription(CARD_TOPIC, status, self._on_card, latched, group="cards")
        if not self._ready.wait(READY_S):
            raise TimeoutError(f"no engine was READY within {READY_S:g} s")

    def _on_card(self, message: Message) -> None:
        card = card_from_status(message)
        if card.state is EngineState.READY:
            self.info.update(backend=card.backend_type, device=card.device, max_batch=getattr(card, "max_batch", 1))
            self._ready.set()

    def _on_reply(self, message: Message) -> None:
        reply = decode_reply(message)
        device = self._devices.get(reply.session)
        if device is not None:
            device.answered(reply.request_id, reply.action is not None)

    def select(self, mode: str) -> None:
        count, _, replan = mode.partition("/")
        self._mode = (int(count), int(replan))

    def round(self) -> Mapping[str, float]:
        count, replan = self._mode
        devices = [
            SimulatedDevice(number, self._batches[number % len(self._batches)], self._chunk, replan)
            for number in range(count)
        ]
        self._devices = {device.session: device for device in devices}
        self._drive(devices, WARM_S)
        for device in devices:
            device.begin()
        late_ms = self._drive(devices, self._seconds)
        self._devices = {}
        return _figures(devices, late_ms, self._seconds)

    def _drive(self, devices: list[SimulatedDevice], seconds: float) -> list[float]:
        """Tick each device on its own phase; how late every tick was, in ms."""
        started = time.perf_counter()
        late_ms: list[float] = []
        for turn in range(int(seconds * HZ) * len(devices)):
            due = started + turn / (HZ * len(devices))
            time.sleep(max(0.0, due - time.perf_counter()))
            late_ms.append((time.perf_counter() - due) * 1e3)
            request = devices[turn % len(devices)].tick()
            if request is not None:
                self._publisher.publish(encode_request(request, extended=True, codecs=self._codecs(request.batch)))
        return late_ms

    def _codecs(self, batch: Batch) -> dict[str, str]:
        return {key: self._codec for key, value in batch.items() if isinstance(value, AffineImage)}

    def close(self) -> None:
        self._node.close()


def _figures(devices: list[SimulatedDevice], late_ms: list[float], seconds: float) -> dict[str, float]:
    latencies = sorted(value for device in devices for value in device.latencies_ms) or [float(GIVE_UP_S * 1e3)]
    served = [len(device.latencies_ms) for device in devices]
    ages = sorted(age for device in devices for age in device.ages) or [0]
    ticks = sum(device.holds + len(device.ages) for device in devices)
    return {
        "total": median(latencies),
        "latency_p50": median(latencies),
        "latency_p99": percentile(latencies, 0.99),
        "throughput": sum(served) / seconds,
        "hold_ratio": sum(device.holds for device in devices) / max(1, ticks),
        "age_p50_ms": median(ages) * 1e3 / HZ,
        "served_least_by_most": min(served) / max(1, max(served)),
        "unanswered": float(sum(device.refused for device in devices)),
        "tick_late_p99": percentile(sorted(late_ms), 0.99),
    }


def make(config: dict[str, Any]) -> Side:
    return Fleet(config)


if __name__ == "__main__":
    sys.exit(serve(make))
