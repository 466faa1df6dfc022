"""Episodes on the whole stack: the simulated robot, device node, dispatcher and engine as processes, in real time.

The simulated robot resets itself with the next seed for each episode, and tells the truth on its task topic.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from inference_service.core.errors import InferenceServiceError
from inference_service.demo.isolation import free_domain, isolated
from inference_service.demo.options import DemoOptions
from inference_service.demo.stage import Stage, set_stage
from inference_service.evaluation.result import Episode
from inference_service.launcher import Launcher
from inference_service.nodes.sim_robot import COMMAND, TASK_HZ, TASK_TOPIC
from inference_service.sim.task import EPISODE_S
from inference_service.transport import create_node
from inference_service.transport.protocol import Message, QoS
from robot_config import RobotConfig, load_robot_config
from robot_config.plan import SIM_NODE

START_DEADLINE_S = 90.0
_BETWEEN_S = 0.2
"""An episode ends so long before the reset, so that none of its samples is lost."""


class StackFailed(InferenceServiceError):
    """The processes did not get to the end of the episodes."""

    wire_name = "stack_failed"


class TaskWatch:
    """Tip distances by seed, as the simulated robot publishes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._distances: dict[int, list[float]] = {}

    def take(self, message: Message) -> None:
        """One message of the task topic; those from before the first command count for nothing."""
        seed, elapsed, distance = (float(value) for value in message.data[:3])
        if 0 < elapsed <= EPISODE_S:
            with self._lock:
                self._distances.setdefault(int(seed), []).append(distance)

    def read(self) -> dict[int, list[float]]:
        with self._lock:
            return {seed: list(values) for seed, values in self._distances.items()}


def play_all(
    policy: Path,
    seeds: Sequence[int],
    device: str = "auto",
    encoding: str | None = None,
    mode: str = "distributed",
    robot: str = "so101_sim",
) -> tuple[str, list[Episode]]:
    """The backend asked for, and an episode for each of ``seeds``, which follow one another by 1.

    Raises:
        StackFailed: a process died, or no command came before the deadline.
        InferenceServiceError, RobotConfigError: it cannot be started as asked for.
        ValueError: seeds with gaps.
    """
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise ValueError(f"the simulated robot counts its seeds up by 1: {list(seeds)} has gaps")
    with _robot_file(robot, encoding) as file:
        stage = _staged(set_stage(DemoOptions(mode=mode, device=device, policy=policy, robot=str(file))), seeds[0])
        domain = free_domain()
        with isolated(domain):
            watch = TaskWatch()
            _run(stage, domain, watch, len(seeds))
    distances = watch.read()
    return device, [Episode.of(seed, distances.get(seed, []), TASK_HZ) for seed in seeds]


@contextmanager
def _robot_file(robot: str, encoding: str | None) -> Iterator[Path]:
    """The robot's file, or a copy of it that asks for ``encoding``."""
    config: RobotConfig = load_robot_config(robot)
    if encoding is None:
        yield config.config_path
        return
    content = yaml.safe_load(config.config_path.read_text())
    described = content.get("robot", content)
    described["control_modes"][config.default_control_mode]["inference"]["encodings"] = {"default": encoding}
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / config.config_path.name
        copy.write_text(yaml.safe_dump(content, sort_keys=False))
        yield copy


def _staged(stage: Stage, first_seed: int) -> Stage:
    """The stage with a simulated robot that resets itself."""
    extra = {"seed": first_seed, "cube_moves_after_s": 0.0, "reset_every_s": EPISODE_S + _BETWEEN_S}
    processes = tuple(
        replace(spec, parameters={**spec.parameters, **extra}) if spec.name == SIM_NODE else spec
        for spec in stage.plan.processes
    )
    return replace(stage, plan=replace(stage.plan, processes=processes))


def _run(stage: Stage, domain: int, watch: TaskWatch, episodes: int) -> None:
    node = create_node("evaluation_observer", domain_id=domain)
    launcher = Launcher(stage.plan)
    try:
        node.create_subscription(TASK_TOPIC.format(node=SIM_NODE), COMMAND, watch.take, QoS(depth=50))
        launcher.start()
        _wait(launcher, watch, 1, START_DEADLINE_S, "no command came")
        # One more: the last episode is over when the next has begun.
        _wait(launcher, watch, episodes + 1, (episodes + 1) * 2 * (EPISODE_S + _BETWEEN_S), "the episodes did not end")
    finally:
        launcher.stop()
        node.close()


def _wait(launcher: Launcher, watch: TaskWatch, seeds: int, deadline_s: float, what: str) -> None:
    """Until so many seeds have been seen."""
    end = time.monotonic() + deadline_s
    while len(watch.read()) < seeds:
        died = [p for p in launcher.processes if p.returncode is not None]
        if died:
            last = "\n".join(died[0].last_lines)
            raise StackFailed(f"{died[0].name} died with status {died[0].returncode}:\n{last}")
        if time.monotonic() > end:
            lines = "\n".join(f"{p.name}: {p.last_lines[-1] if p.last_lines else ''}" for p in launcher.processes)
            raise StackFailed(f"{what} within {deadline_s:.0f} s. What the processes said last:\n{lines}")
        time.sleep(0.1)
