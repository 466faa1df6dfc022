"""One side of a measurement in a process of its own, told what to do line by line. Standard library alone.

The bench starts ``python -m MODULE CONFIG`` (JSON). The process answers ``{"ready": …}`` on its standard output, then
for each line ``{"rounds": n, "period_s": t, "mode": m}`` one line with the milliseconds of every stage of every round.
It ends with its standard input. What libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


class Side:
    """What measures. ``info`` is told once it is ready."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info

    def select(self, mode: str) -> None:
        """Measure in this way from now on."""
        raise NotImplementedError(f"{type(self).__name__} has no mode {mode!r}")

    def round(self) -> Mapping[str, float]:
        """One measurement: milliseconds by stage, ``total`` among them."""
        raise NotImplementedError(f"{type(self).__name__} only serves")

    def close(self) -> None:
        """Release what it holds."""


class Server(Side):
    """A side that is only there."""

    def __init__(self, info: dict[str, Any], end: Callable[[], object] = lambda: None) -> None:
        super().__init__(info)
        self._end = end

    def close(self) -> None:
        self._end()


def serve(make: Callable[[dict[str, Any]], Side]) -> int:
    """Run the side that ``make`` builds from the configuration."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    side = make(json.loads(sys.argv[1]))
    # As our nodes do once they are up; here for everyone, so that no measurement meets a walk over what was imported.
    gc.collect()
    gc.freeze()
    try:
        _say(answers, {"ready": side.info})
        for line in sys.stdin:
            order = json.loads(line)
            if order.get("mode"):
                side.select(order["mode"])
            _say(answers, run_rounds(side.round, order["rounds"], order.get("period_s", 0.0)))
    finally:
        side.close()
    return 0


def _say(answers: Any, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def run_rounds(measure: Callable[[], Mapping[str, float]], rounds: int, period_s: float = 0.0) -> dict[str, Any]:
    """``rounds`` measurements, ``period_s`` apart: ``{"stages": {name: [ms, …]}, "cpu_ms": of this process, each}``."""
    stages: dict[str, list[float]] = {}
    cpu = time.process_time()
    due = time.perf_counter()
    for _ in range(rounds):
        for name, value in measure().items():
            stages.setdefault(name, []).append(value)
        if period_s:
            due += period_s
            time.sleep(max(0.0, due - time.perf_counter()))
    return {"stages": stages, "cpu_ms": (time.process_time() - cpu) * 1e3 / max(1, rounds)}


def timed(call: Callable[[], object]) -> dict[str, float]:
    """How long ``call`` takes, as a round."""
    started = time.perf_counter()
    call()
    return {"total": (time.perf_counter() - started) * 1e3}
