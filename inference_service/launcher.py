"""Starts a plan's processes without ROS, as ``ros2 launch`` would.

Each process runs in a session of its own, so that Ctrl-C reaches the launcher alone and everyone is stopped in order:
SIGINT, then SIGTERM, then SIGKILL. A process that dies is reported with its last lines and the others go on: a robot
whose engine is lost still has to be held. Should the launcher itself die, :mod:`~inference_service.launch_guard` ends
what it left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from inference_service import launch_guard
from inference_service.core.errors import InferenceServiceError
from inference_service.core.stop_signals import STOP_SIGNALS, stop_signals
from robot_config.plan import Plan, ProcessSpec

LineCallback = Callable[[str, str], None]
"""Called with a process's name and a line of its output, on the thread that reads that process."""
Command = Callable[[ProcessSpec], Sequence[str]]

STOP_TIMEOUT_S = 10.0
_TERM_AT = 0.6
"""SIGTERM follows SIGINT after this part of the stop time-out, SIGKILL at its end."""
_REAP_S = 5.0
_LAST_LINES = 15
_LONGEST_LINE = 65_536
_ASKED_BY = (signal.SIGINT, signal.SIGTERM)

_logger = logging.getLogger("inference_service.launcher")


class LaunchError(InferenceServiceError):
    """A process cannot be started or does not end."""

    wire_name = "launch"


@dataclass
class ManagedProcess:
    """A started process. ``started_at`` is monotonic seconds; ``returncode`` is None while it lives."""

    spec: ProcessSpec
    number: int
    process: subprocess.Popen[bytes]
    started_at: float
    stopping: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    reader: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.poll()

    @property
    def failed(self) -> bool:
        """Whether it ended, and neither well nor because it was told to."""
        asked = {0, *(-s for s in _ASKED_BY), *(128 + s for s in _ASKED_BY)} if self.stopping else {0}
        return self.returncode is not None and self.returncode not in asked


def node_command(spec: ProcessSpec) -> list[str]:
    """The command line that runs a node with this interpreter."""
    return [sys.executable, "-m", "inference_service", "run", *spec.words()]


class Launcher:
    """Runs the processes of a plan.

    Args:
        plan: what to start.
        on_line: sees every line of output besides ``output``; called on reader threads, must not block.
        env: environment of the processes; default: this process's.
        output: where the prefixed lines go; None for nowhere.
        command: how a process of the plan is started.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        on_line: LineCallback | None = None,
        env: Mapping[str, str] | None = None,
        output: TextIO | None = None,
        command: Command = node_command,
    ) -> None:
        self._plan = plan
        self._on_line = on_line
        self._env = {**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"}
        self._output = output
        self._command = command
        self._lock = threading.RLock()
        self._output_lock = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None
        self._guarded: set[int] = set()
        self._count = 0
        self._current: dict[str, ManagedProcess] = {}
        self._ended_numbers: set[int] = set()
        self._failed = False

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """The newest process of each name, in the plan's order."""
        current = dict(self._current)
        return tuple(current[spec.name] for spec in self._plan.processes if spec.name in current)

    def start(self) -> None:
        """Start everything.

        Raises:
            LaunchError: one could not be started; those before it have been stopped.
        """
        with self._lock:
            self._guard = _start_guard()
            try:
                for spec in self._plan.processes:
                    self._start(spec)
            except LaunchError:
                self.stop()
                raise

    def poll(self) -> tuple[ManagedProcess, ...]:
        """Those that died since the last call, each reported with its exit status and last lines."""
        with self._lock:
            gone = [
                p for p in self._current.values() if p.returncode is not None and p.number not in self._ended_numbers
            ]
            for managed in gone:
                self._ended(managed)
                self._report(managed)
            return tuple(gone)

    def restart(self, name: str, timeout: float = STOP_TIMEOUT_S) -> ManagedProcess:
        """Stop a process where it lives, and start it anew.

        Raises:
            LaunchError: none of that name, or it cannot be started.
        """
        with self._lock:
            spec = next((s for s in self._plan.processes if s.name == name), None)
            if spec is None:
                known = ", ".join(s.name for s in self._plan.processes)
                raise LaunchError(f"no process {name!r} in this launch; there are {known}")
            self.poll()
            if name in self._current:
                self._stop([self._current[name]], timeout)
            return self._start(spec)

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """Stop everything within about ``timeout`` seconds; the exit status of the whole launch. Idempotent."""
        with self._lock:
            self.poll()
            self._stop(list(self._current.values()), timeout)
            if self._guard is not None:
                _stop_guard(self._guard)
                self._guard = None
            return 1 if self._failed else 0

    def run(self) -> int:
        """Start, wait for SIGINT, SIGTERM or the end of all processes, stop; the exit status.

        To be called on the main thread. 0 when nobody failed.
        """
        with stop_signals(*STOP_SIGNALS) as asked:
            self.start()
            while not asked.wait(0.2):
                self.poll()
                if all(p.returncode is not None for p in self.processes):
                    break
            return self.stop()

    # -- one process --------------------------------------------------------------------------------------------

    def _start(self, spec: ProcessSpec) -> ManagedProcess:
        command = list(self._command(spec))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"{spec.name}: {command[0]} cannot be started: {error}") from error
        self._tell_guard("+", process.pid)
        self._count += 1
        managed = ManagedProcess(spec, self._count, process, time.monotonic())
        assert process.stdout is not None
        managed.reader = threading.Thread(
            target=self._read, args=(managed, process.stdout), name=f"read-{spec.name}", daemon=True
        )
        self._current[spec.name] = managed
        self._say(managed, f"process started with pid [{process.pid}]")
        managed.reader.start()
        return managed

    def _read(self, managed: ManagedProcess, stream: BinaryIO) -> None:
        with stream:
            for raw in iter(lambda: stream.readline(_LONGEST_LINE), b""):
                line = raw.decode(errors="replace").rstrip("\r\n")
                managed.last_lines.append(line)
                self._say(managed, line)
                self._hand_on(managed.name, line)

    def _hand_on(self, name: str, line: str) -> None:
        callback = self._on_line
        if callback is None:
            return
        try:
            callback(name, line)
        except Exception:
            # Reading has to go on: a process whose output nobody reads stands still. Once is enough to say so.
            self._on_line = None
            _logger.exception("on_line failed for a line of %s and is not called any more", name)

    def _stop(self, processes: list[ManagedProcess], timeout: float) -> None:
        alive = [p for p in processes if p.returncode is None]
        started = time.monotonic()
        for number, until in ((signal.SIGINT, _TERM_AT * timeout), (signal.SIGTERM, timeout)):
            for managed in alive:
                managed.stopping = True
                launch_guard.send(managed.pid, number)
            alive = _wait(alive, started + until)
        for managed in alive:
            self._say(managed, f"did not stop within {timeout:g} s, killed")
            launch_guard.send(managed.pid, signal.SIGKILL)
        for managed in _wait(alive, time.monotonic() + _REAP_S):
            raise LaunchError(f"{managed.name} (pid {managed.pid}) does not end even after SIGKILL")
        for managed in processes:
            self._ended(managed)

    def _ended(self, managed: ManagedProcess) -> None:
        """Take note of an end, once; also end what the process itself had started and left behind."""
        if managed.number in self._ended_numbers:
            return
        self._ended_numbers.add(managed.number)
        launch_guard.send(managed.pid, signal.SIGKILL)
        self._tell_guard("-", managed.pid)
        if managed.reader is not None:
            managed.reader.join(timeout=2.0)
        self._failed = self._failed or managed.failed

    def _report(self, managed: ManagedProcess) -> None:
        status = managed.returncode or 0
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        self._say(managed, f"process has died [pid {managed.pid}, {how}]; the others go on. Its last lines:")
        for line in tuple(managed.last_lines):
            self._say(managed, f"  | {line}")

    def _say(self, managed: ManagedProcess, text: str) -> None:
        with self._output_lock:
            if self._output is None:
                return
            try:
                self._output.write(f"[{managed.name}-{managed.number}] {text}\n")
                self._output.flush()
            except (OSError, ValueError) as error:
                # Whoever read it is gone (`| head`); the robot goes on.
                self._output = None
                _logger.warning("output is no longer written: %s", error)

    def _tell_guard(self, sign: str, pid: int) -> None:
        (self._guarded.add if sign == "+" else self._guarded.discard)(pid)
        if self._guard is None:
            return
        try:
            _write(self._guard, [f"{sign} {pid}"])
        except BrokenPipeError:
            # Somebody ended the guard. Processes must not outlive the launcher: start another.
            self._guard.wait(timeout=_REAP_S)
            self._guard = _start_guard()
            _write(self._guard, [f"+ {alive}" for alive in self._guarded])


def _wait(processes: list[ManagedProcess], deadline: float) -> list[ManagedProcess]:
    """Wait until all have ended or the deadline; those that have not."""
    while True:
        alive = [p for p in processes if p.returncode is None]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(0.02)


def _start_guard() -> subprocess.Popen[bytes]:
    # -I -S: nothing of the environment or site-packages, it needs the standard library only.
    command = [sys.executable, "-I", "-S", str(Path(launch_guard.__file__).resolve())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _write(guard: subprocess.Popen[bytes], orders: list[str]) -> None:
    assert guard.stdin is not None
    guard.stdin.write("".join(f"{order}\n" for order in orders).encode())
    guard.stdin.flush()


def _stop_guard(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        guard.stdin.close()
    guard.wait(timeout=launch_guard.GRACE_S + _REAP_S)
