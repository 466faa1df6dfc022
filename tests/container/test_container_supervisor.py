"""Nodes that die are started again: later each time, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.container import main as container
from inference_service.container.supervisor import CONFIGURATION_DELAY_S, LONGEST_DELAY_S, STEADY_S, Supervisor
from inference_service.core.stop_signals import StopSignals
from inference_service.launcher import Launcher, ManagedProcess
from inference_service.readiness import STATUS_DIR, check
from robot_config.plan import Plan, ProcessSpec

REPO = Path(__file__).resolve().parents[2]
DIES, STAYS = "import sys; sys.exit(3)", "import time; time.sleep(60)"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class StandIn:
    """A launcher whose one process is always dead when asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.returncode = 1
        self.lived = 0.0
        self.starts: list[float] = []
        self._dead = True

    def poll(self) -> tuple[ManagedProcess, ...]:
        if not self._dead:
            return ()
        self._dead = False
        process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({self.returncode})"])
        process.wait()
        spec = ProcessSpec("p", "e", "node", {})
        return (ManagedProcess(spec, 1, process, self.clock.now - self.lived),)

    def restart(self, _name: str) -> None:
        self.starts.append(self.clock.now)
        self._dead = True


def _delay(supervisor: Supervisor, launcher: StandIn, clock: Clock) -> float:
    """Seconds between a death and the next start."""
    died, starts = clock.now, len(launcher.starts)
    supervisor.step()
    while len(launcher.starts) == starts:
        clock.now += 0.5
        supervisor.step() if not launcher._dead else None
    return launcher.starts[-1] - died


def test_later_each_time_up_to_a_limit_and_at_once_after_a_steady_life() -> None:
    clock = Clock()
    launcher = StandIn(clock)
    supervisor = Supervisor(launcher, clock)  # type: ignore[arg-type]
    assert [_delay(supervisor, launcher, clock) for _ in range(7)] == [1, 2, 4, 8, 16, LONGEST_DELAY_S, LONGEST_DELAY_S]
    launcher.lived = STEADY_S
    assert _delay(supervisor, launcher, clock) == 1


def test_a_wrong_configuration_is_tried_again_slowly() -> None:
    clock = Clock()
    launcher = StandIn(clock)
    launcher.returncode = 2
    supervisor = Supervisor(launcher, clock)  # type: ignore[arg-type]
    assert [_delay(supervisor, launcher, clock) for _ in range(3)] == [CONFIGURATION_DELAY_S] * 3


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATUS_DIR, str(tmp_path))
    plan = Plan((ProcessSpec("p", DIES, "dying", {}), ProcessSpec("p", STAYS, "steady", {})))
    lines: list[str] = []
    launcher = Launcher(
        plan, on_line=lambda _n, line: lines.append(line), command=lambda spec: [sys.executable, "-c", spec.executable]
    )
    stop = StopSignals()
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(Supervisor(launcher).run(stop)))
    thread.start()
    _until(lambda: launcher._count >= 4, "the dying node was not started twice more")
    steady = next(p for p in launcher.processes if p.name == "steady")
    assert steady.returncode is None
    assert any(problem.startswith("dying: ended with exit code 3, starts again in") for problem in check([]))
    stop.set()
    thread.join(timeout=30)
    assert ended in ([0], [1])
    assert steady.returncode is not None


def _environment(**changed: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DDS_", "ROS_", "CYCLONE"))}
    return {**kept, "PYTHONPATH": str(REPO), **changed}


def test_it_waits_for_a_configuration_and_ends_with_two(tmp_path: Path) -> None:
    """Unhealthy with the reason; stopped it says by its exit status that it never worked."""
    environment = _environment(**{STATUS_DIR: str(tmp_path)})
    process = subprocess.Popen(
        [sys.executable, "-m", "inference_service.cli", "container", "engine"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        status = tmp_path / f"{container.CONFIGURATION}.json"
        _until(status.exists, "no status was written")
        assert "ROS_DOMAIN_ID is not set" in status.read_text()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 2
    assert output.count("ROS_DOMAIN_ID is not set") == 1
    assert "/model is not mounted" in output


def test_the_host_check_ends_with_two(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ENGINE", "tpu")
    assert container.main(["check"]) == 2
    monkeypatch.setenv("ENGINE", "cpu")
    assert container.main(["check"]) == 0


def test_this_process_stays_light() -> None:
    """It lives beside the nodes on the device: no DDS, no numpy."""
    script = (
        "import sys, inference_service.container.main\n"
        "print([name for name in ('cyclonedds', 'numpy', 'rosbags') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], env=_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert output.stdout.strip() == "[]"
