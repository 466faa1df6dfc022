"""The ROS-free launcher, with small stand-in processes: output, deaths, restarts, stopping, nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference_service.launcher import Launcher, LaunchError, node_command
from robot_config.plan import Plan, ProcessSpec

DEADLINE_S = 20.0

TALKS = """
import signal, sys, time
def stop(*_):
    print("stopping", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""
FAILS = """
import sys
print("about to fail")
sys.exit("out of luck")
"""
IGNORES_INT = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
IGNORES_ALL = IGNORES_INT.replace("print", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print")
HAS_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Stage:
    """A launcher whose processes are Python programs given as text, by name."""

    def __init__(self, **programs: str) -> None:
        self.programs = programs
        self.output = io.StringIO()
        self.lines: list[tuple[str, str]] = []
        plan = Plan(tuple(ProcessSpec("test", name, name, {}) for name in programs))
        self.launcher = Launcher(
            plan,
            on_line=lambda name, line: self.lines.append((name, line)),
            output=self.output,
            command=lambda spec: [sys.executable, "-c", self.programs[spec.name]],
        )

    def ready(self, *names: str) -> None:
        for name in names:
            wait_for(lambda name=name: (name, "ready") in self.lines, f"{name} to be ready")  # type: ignore[misc]

    @property
    def text(self) -> str:
        return self.output.getvalue()


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(**programs: str) -> Stage:
        made.append(Stage(**programs))
        return made[-1]

    yield make
    for each in made:
        each.launcher.stop(timeout=1.0)


def test_lines_are_prefixed_and_handed_on(stage: Callable[..., Stage]) -> None:
    scene = stage(one=TALKS, two=TALKS)
    scene.launcher.start()
    scene.ready("one", "two")
    assert "[one-1] ready\n" in scene.text
    assert "[two-2] ready\n" in scene.text
    assert scene.launcher.stop() == 0
    assert ("one", "stopping") in scene.lines
    assert [p.returncode for p in scene.launcher.processes] == [0, 0]


def test_a_death_is_reported_and_the_others_go_on(stage: Callable[..., Stage]) -> None:
    scene = stage(good=TALKS, bad=FAILS)
    scene.launcher.start()
    scene.ready("good")
    wait_for(lambda: scene.launcher.processes[1].returncode is not None, "the death")
    assert [p.name for p in scene.launcher.poll()] == ["bad"]
    assert scene.launcher.poll() == ()
    assert "[bad-2] process has died" in scene.text
    assert "exit code 1" in scene.text
    assert "[bad-2]   | out of luck" in scene.text
    good, bad = scene.launcher.processes
    assert (good.returncode, bad.returncode) == (None, 1)
    assert scene.launcher.stop() == 1


def test_a_killed_process_names_its_signal_and_can_be_restarted(stage: Callable[..., Stage]) -> None:
    scene = stage(one=TALKS)
    scene.launcher.start()
    scene.ready("one")
    (before,) = scene.launcher.processes
    os.kill(before.pid, signal.SIGKILL)
    wait_for(scene.launcher.poll, "the death to be seen")
    assert "killed by SIGKILL" in scene.text
    scene.lines.clear()
    after = scene.launcher.restart("one")
    scene.ready("one")
    assert scene.launcher.processes == (after,)
    assert after.pid != before.pid
    assert after.started_at > before.started_at
    assert "[one-2] ready" in scene.text


def test_restart_stops_what_lives(stage: Callable[..., Stage]) -> None:
    scene = stage(one=TALKS)
    scene.launcher.start()
    scene.ready("one")
    (before,) = scene.launcher.processes
    scene.launcher.restart("one")
    assert ("one", "stopping") in scene.lines
    assert before.returncode == 0
    with pytest.raises(LaunchError, match="no process 'two' in this launch; there are one"):
        scene.launcher.restart("two")
    assert scene.launcher.stop() == 0


def test_sigterm_follows_sigint(stage: Callable[..., Stage]) -> None:
    scene = stage(deaf=IGNORES_INT)
    scene.launcher.start()
    scene.ready("deaf")
    assert scene.launcher.stop(timeout=1.0) == 0
    assert scene.launcher.processes[0].returncode == -signal.SIGTERM


def test_sigkill_ends_the_stubborn_and_fails_the_launch(stage: Callable[..., Stage]) -> None:
    scene = stage(stubborn=IGNORES_ALL)
    scene.launcher.start()
    scene.ready("stubborn")
    assert scene.launcher.stop(timeout=0.6) == 1
    assert scene.launcher.processes[0].returncode == -signal.SIGKILL
    assert "did not stop within 0.6 s, killed" in scene.text


def test_what_a_process_started_ends_with_it(stage: Callable[..., Stage]) -> None:
    scene = stage(parent=HAS_A_CHILD)
    scene.launcher.start()
    wait_for(lambda: scene.lines, "the child to be started")
    child = int(scene.lines[0][1].split()[1])
    os.kill(scene.launcher.processes[0].pid, signal.SIGKILL)
    wait_for(scene.launcher.poll, "the death to be seen")
    wait_for(lambda: not is_alive(child), "the child to end")


def test_a_callback_that_fails_does_not_stop_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    output = io.StringIO()

    def fail(_name: str, _line: str) -> None:
        raise RuntimeError("broken callback")

    program = "import sys\nfor i in range(3_000): print('line', i, 'x' * 100)\nprint('last', flush=True)"
    plan = Plan((ProcessSpec("test", "one", "one", {}),))
    launcher = Launcher(plan, on_line=fail, output=output, command=lambda _spec: [sys.executable, "-c", program])
    launcher.start()
    wait_for(launcher.poll, "the process to end")
    assert launcher.stop() == 0
    assert "[one-1] last\n" in output.getvalue()
    assert "on_line failed for a line of one" in caplog.text


def test_a_command_that_does_not_exist_stops_what_was_started() -> None:
    plan = Plan(tuple(ProcessSpec("test", name, name, {}) for name in ("good", "bad")))
    commands = {"good": [sys.executable, "-c", TALKS], "bad": ["/no/such/program"]}
    launcher = Launcher(plan, command=lambda spec: commands[spec.name])
    with pytest.raises(LaunchError, match="bad: /no/such/program cannot be started"):
        launcher.start()
    assert launcher.processes[0].returncode is not None


def test_the_environment_is_the_one_given() -> None:
    output = io.StringIO()
    plan = Plan((ProcessSpec("test", "one", "one", {}),))
    program = "import os; print(os.environ.get('ROS_DOMAIN_ID'), 'HOME' in os.environ)"
    launcher = Launcher(
        plan, env={"ROS_DOMAIN_ID": "42"}, output=output, command=lambda _spec: [sys.executable, "-c", program]
    )
    launcher.start()
    wait_for(launcher.poll, "the process to end")
    launcher.stop()
    assert "[one-1] 42 False" in output.getvalue()


def test_the_command_of_a_node() -> None:
    spec = ProcessSpec("inference_service", "sim_robot", "sim_robot", {"seed": 1, "use_sim_time": False})
    assert node_command(spec)[1:] == [
        "-m",
        "inference_service",
        "run",
        "sim_robot",
        "seed:=1",
        "use_sim_time:=false",
    ]


# -- a whole launcher as a process of its own -----------------------------------------------------------------------

RUNNER = f"""
import sys
from inference_service.launcher import Launcher
from robot_config.plan import Plan, ProcessSpec
program = {TALKS!r}.replace('"ready"', '"ready", __import__("os").getpid()')
plan = Plan((ProcessSpec("test", "one", "one", {{}}), ProcessSpec("test", "two", "two", {{}})))
launcher = Launcher(plan, output=sys.stdout, command=lambda spec: [sys.executable, "-c", program])
sys.exit(launcher.run())
"""


class Runner:
    """A process that runs a launcher with two stand-ins, and their pids."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", RUNNER], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        wait_for(lambda: len(self.pids()) == 2, "both stand-ins to be ready")

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def pids(self) -> list[int]:
        return [int(line.split()[2]) for line in tuple(self.lines) if "] ready " in line]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=DEADLINE_S)


@pytest.fixture
def runner() -> Iterator[Runner]:
    running = Runner()
    yield running
    running.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_stops_everyone_in_order(runner: Runner, number: signal.Signals) -> None:
    pids = runner.pids()
    runner.process.send_signal(number)
    assert runner.process.wait(timeout=DEADLINE_S) == 0
    assert not any(map(is_alive, pids))
    wait_for(lambda: sum("stopping" in line for line in runner.lines) == 2, "both to say that they stop")


def test_nothing_outlives_a_launcher_that_is_killed(runner: Runner) -> None:
    pids = runner.pids()
    runner.process.kill()
    runner.process.wait(timeout=DEADLINE_S)
    wait_for(lambda: not any(map(is_alive, pids)), "the stand-ins to end")


def test_the_launch_ends_with_the_last_process_and_fails(runner: Runner) -> None:
    for pid in runner.pids():
        os.kill(pid, signal.SIGKILL)
    assert runner.process.wait(timeout=DEADLINE_S) == 1


def test_a_guard_that_was_ended_is_replaced(stage: Callable[..., Stage]) -> None:
    scene = stage(one=TALKS)
    scene.launcher.start()
    scene.ready("one")
    guard = scene.launcher._guard
    assert guard is not None
    guard.kill()
    guard.wait(timeout=DEADLINE_S)
    scene.launcher.restart("one")
    wait_for(lambda: scene.lines.count(("one", "ready")) == 2, "one to be ready again")
    replaced = scene.launcher._guard
    assert replaced is not None
    assert replaced.poll() is None
    assert scene.launcher.stop() == 0
