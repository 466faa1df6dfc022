"""The control tick as it is: a dispatcher in this process, and every instant at which its tick began."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from benchmarks.folders import ROBOT
from benchmarks.measure import percentile
from benchmarks.worker import Side, serve
from inference_service.dispatch.timing import TickClock
from inference_service.nodes import dispatcher_node
from inference_service.nodes.dispatcher_node import DispatcherNode, DispatcherParameters
from inference_service.transport import create_node

FIRST_CHUNK_S = 40.0


class RecordingClock(TickClock):
    """Keeps every instant beside the histogram."""

    def __init__(self) -> None:
        super().__init__()
        self.instants_ns: list[int] = []

    def record(self, now_ns: int) -> None:
        super().record(now_ns)
        self.instants_ns.append(now_ns)


class Dispatcher(Side):
    """A round is ``seconds`` of ticking while the queue always wants a new chunk, so that inference never rests."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        self._hz, self._seconds = float(config["hz"]), float(config["seconds"])
        self._clocks: list[RecordingClock] = []
        setattr(dispatcher_node, "TickClock", self._clock)  # noqa: B010  # for mypy the name is not that module's
        self._node = create_node("action_dispatcher")
        parameters = DispatcherParameters(
            robot_config_path=str(ROBOT),
            control_frequency=self._hz,
            watermark_threshold=100,
            queue_size=100,
            real_time_priority=config.get("priority"),
        )
        self._dispatcher = DispatcherNode(self._node, parameters)
        self._wait_for_chunk()

    def _clock(self) -> RecordingClock:
        self._clocks.append(RecordingClock())
        return self._clocks[-1]

    @property
    def _inferences(self) -> int:
        return self._dispatcher._stats.counters.inferences

    def _wait_for_chunk(self) -> None:
        deadline = time.monotonic() + FIRST_CHUNK_S
        while not self._inferences:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no chunk came within {FIRST_CHUNK_S:g} s")
            time.sleep(0.1)

    def round(self) -> Mapping[str, float]:
        begin, inferences = time.monotonic_ns(), self._inferences
        time.sleep(self._seconds)
        instants = [instant for instant in self._clocks[-1].instants_ns if instant >= begin]
        return {**jitter(instants, self._hz), "inferences": float(self._inferences - inferences)}

    def close(self) -> None:
        self._dispatcher.close()
        self._node.close()


def jitter(instants_ns: list[int], hz: float) -> dict[str, float]:
    """How far each interval is from the period, in ms."""
    period_ns = 1e9 / hz
    off = sorted(abs(after - before - period_ns) / 1e6 for before, after in pairwise(instants_ns))
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    figures = {f"jitter_{name}": percentile(off, share) for name, share in shares.items()}
    return {**figures, "total": figures["jitter_p50"], "ticks": float(len(off) + 1)}


class Sleeper(Side):
    """A process that only sleeps to the same grid: what the machine itself takes from everyone."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({})
        self._hz, self._seconds = float(config["hz"]), float(config["seconds"])

    def round(self) -> Mapping[str, float]:
        period = 1 / self._hz
        start, instants = time.monotonic(), []
        for tick in range(1, int(self._seconds * self._hz)):
            time.sleep(max(0.0, start + tick * period - time.monotonic()))
            instants.append(time.monotonic_ns())
        return jitter(instants, self._hz)


def make(config: dict[str, Any]) -> Side:
    return Sleeper(config) if config.get("role") == "sleeper" else Dispatcher(config)


if __name__ == "__main__":
    sys.exit(serve(make))
