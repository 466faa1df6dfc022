"""Synthetic event streams: a good run of the stack, second by second, for a test to spoil."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from inference_service.demo.events import Card, Chunk, Command, Event, Health, Joints, QueueSize, Resources
from inference_service.demo.log_lines import LogWatch
from inference_service.demo.promises import Terms
from inference_service.demo.recording import Recording
from inference_service.demo.report import RunFacts

TOPIC = "/arm_position_controller/commands"
JOINTS = ("1", "2", "3", "4", "5", "6")
PERIOD = 0.05
TERMS = Terms(
    period_s=PERIOD,
    max_action_age_s=2.55,
    hold_timeout_s=1.0,
    observation_tolerance_s=1.0,
    joint_limits={TOPIC: [(name, -1.5, 1.5) for name in JOINTS]},
    fingerprint="aa11",
)
STAGES = {"total": 30.0, "sample": 1.0, "preprocess": 4.0, "wire": 2.0, "queue": 0.5, "inference": 20.0,
          "postprocess": 0.5}  # fmt: skip


FACTS = RunFacts(
    mode="distributed",
    device="auto",
    robot="so101_sim",
    policy="so101_act_demo",
    domain=42,
    ended_at=10.0,
    started={"pure_inference": -2.0, "action_dispatcher": -1.0},
    log_lines=LogWatch("distributed").result(),
)


def health(t: float, node: str, level: int = 0, **values: object) -> Health:
    return Health(t, node, level, "ready", {key: str(value) for key, value in values.items()})


def dispatcher(t: float, level: int = 0, **values: object) -> Health:
    figures = {"actions": int(t * 20), "hold_ticks": 2, "tick_period_ms": 50.0, "tick_p50_ms": 50.0,
               "tick_p99_ms": 51.5, "tick_max_ms": 58.0}  # fmt: skip
    return health(t, "action_dispatcher", level, **{**figures, **values})


def command(t: float) -> Command:
    return Command(t, TOPIC, tuple(math.sin(t + i) for i in range(6)))


def tick(t: float, queue: int = 30) -> Iterator[Event]:
    yield Joints(t, {name: math.sin(t + i - 0.05) for i, name in enumerate(JOINTS)})
    yield command(t)
    yield QueueSize(t, queue)


def good_run(seconds: float, start: float = 0.0) -> Iterator[Event]:
    """A chunk a second, a tick every 50 ms, diagnostics a second: nothing to complain of."""
    yield Card(start, {"state": "READY", "fingerprint": "aa11", "backend_type": "onnx", "device": "cpu"})
    for n in range(round(seconds / PERIOD)):
        t = start + n * PERIOD
        if n % 20 == 0:
            yield Joints(t - 0.04, dict.fromkeys(JOINTS, 0.0))
            yield Chunk(t, f"request-{t:.2f}", STAGES)
            yield dispatcher(t)
            yield health(t, "act_inference_node", fingerprint="aa11")
            for name in ("pure_inference", "action_dispatcher"):
                yield Resources(t, name, 80.0, 12, 40, imports_torch=False)
        yield from tick(t)


def with_ticks(start: float, seconds: float, queue: int = 30) -> list[Event]:
    """Ticks with a new command each, and nothing else."""
    return [event for n in range(round(seconds / PERIOD)) for event in tick(start + n * PERIOD, queue)]


def record(events: Iterable[Event]) -> Recording:
    recording = Recording(TERMS)
    for event in events:
        recording.see(event)
    recording.promises.settle()
    return recording
