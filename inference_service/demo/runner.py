"""One run from start to report: start the processes, watch them, stop them, write down what happened."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_service.core.errors import InferenceServiceError
from inference_service.core.stop_signals import STOP_SIGNALS, StopSignals
from inference_service.demo.boards import board_for
from inference_service.demo.collector import Collector
from inference_service.demo.display import Display, LineDisplay, LogFile, TableDisplay, logs_to, tell
from inference_service.demo.isolation import free_domain, isolated
from inference_service.demo.log_lines import LogWatch
from inference_service.demo.machine import MachineWatch
from inference_service.demo.options import DemoOptions, parse_options
from inference_service.demo.processes import look_at
from inference_service.demo.promises import NOT_OBSERVED
from inference_service.demo.recording import Recording
from inference_service.demo.report import RunFacts, build_report, write_report
from inference_service.demo.stage import Stage, set_stage
from inference_service.launcher import Launcher, ManagedProcess
from inference_service.transport import create_node
from robot_config import RobotConfigError

START_DEADLINE_S = 60.0
FRAMES_DEADLINE_S = 2.0
LOOK_PERIOD_S = 0.1
RESOURCES_PERIOD_S = 1.0

EXIT_GOOD, EXIT_FAILED, EXIT_CANNOT_START = 0, 1, 2


class Run:
    """The processes of one stage and their observer, from :meth:`watch` to :meth:`facts`."""

    def __init__(self, options: DemoOptions, stage: Stage, display: Display, stop: StopSignals) -> None:
        self.recording = Recording(stage.terms)
        self._options = options
        self._stage = stage
        self._display = display
        self._stop = stop
        self._lines = LogWatch(options.mode)
        self._collector: Collector | None = None
        self._launcher = Launcher(stage.plan, on_line=self._on_line)
        self._machine = MachineWatch(stage.terms.period_s)
        self._started: dict[str, float] = {}
        self._ended_at = 0.0
        self._died: list[str] = []
        self._problems: list[str] = []
        self._next_resources = 0.0

    def _on_line(self, name: str, line: str) -> None:
        self._lines.see(name, line)
        self._display.line(name, line)

    def watch(self, domain: int) -> None:
        """Start, wait for the first command, let it run for the time asked for, stop. Leaves no process behind."""
        node = create_node("demo_observer", domain_id=domain)
        try:
            self._collector = Collector(node, self._stage.robot, self._stage.folder.config.type, self.recording)
            try:
                self._launcher.start()
                self._started = {p.name: p.started_at for p in self._launcher.processes}
                with self._machine:
                    if self._wait_for_first_command():
                        self._wait_for_end()
                self._ended_at = time.monotonic()
                self.recording.freeze()
                if self.recording.first_command_at is not None:
                    self._collector.take_frames(FRAMES_DEADLINE_S)
            finally:
                self._launcher.stop()
        finally:
            node.close()

    def _wait_for_first_command(self) -> bool:
        deadline = time.monotonic() + START_DEADLINE_S
        while self.recording.first_command_at is None:
            if not self._look() or self._died:
                return False
            if time.monotonic() > deadline:
                self._problems.append(f"no command after {START_DEADLINE_S:.0f} s: {self._not_ready()}")
                return False
        return True

    def _wait_for_end(self) -> None:
        seconds = self._options.seconds
        end = None if seconds is None else (self.recording.first_command_at or 0.0) + seconds
        while end is None or time.monotonic() < end:
            if not self._look():
                return

    def _look(self) -> bool:
        """One look at everything; False when the run is over: somebody stops it, or no process is left."""
        now = time.monotonic()
        if now >= self._next_resources:
            self._next_resources = now + RESOURCES_PERIOD_S
            self._look_at_processes(now)
            self.recording.see(self._machine.look(now, [p.pid for p in self._launcher.processes]))
            self._look_for_strangers()
        self._display.show(self.recording)
        for process in self._launcher.poll():
            self._note_death(process)
        alive = any(p.returncode is None for p in self._launcher.processes)
        return alive and not self._stop.wait(LOOK_PERIOD_S)

    def _look_for_strangers(self) -> None:
        """Another stack in this domain would be taken for this one: its chunks, its commands, its breaches."""
        crowded = self._collector.crowded() if self._collector else None
        if crowded and not any("another stack" in problem for problem in self._problems):
            self._problems.append(f"another stack is in this ROS domain: {crowded} has two publishers; set --domain")
            self._display.line("demo", self._problems[-1])

    def _note_death(self, process: ManagedProcess) -> None:
        """The others go on: a robot whose engine is lost still has to be held, and the report shows whether it was."""
        last = process.last_lines[-1] if process.last_lines else "it said nothing"
        self._died.append(f"{process.name} died with status {process.returncode}: {last}")
        self._display.line("demo", self._died[-1])

    def _look_at_processes(self, now: float) -> None:
        for process in self._launcher.processes:
            seen = look_at(process.pid, process.name, now)
            if seen is not None:
                self.recording.see(seen)

    def _not_ready(self) -> str:
        """The processes that never were healthy, each with what it said last."""
        ready, health = self.recording.read(lambda r: (set(r.ready_at), dict(r.health)))
        waiting = []
        for name in self._started:
            if name not in ready:
                said = health[name].message if name in health else "it has said nothing"
                waiting.append(f"{name} is not ready ({said})")
        return "; ".join(waiting) or "every process is ready, and the dispatcher sends nothing"

    def facts(self, domain: int) -> RunFacts:
        """What the report needs to know beyond the recording."""
        return RunFacts(
            mode=self._options.mode,
            device=self._options.device,
            robot=self._stage.robot.name,
            policy=self._stage.folder.path.name,
            domain=domain,
            ended_at=self._ended_at,
            started=self._started,
            log_lines=self._lines.result(),
            died=self._died,
            problems=self._problems,
        )


def out_folder(options: DemoOptions) -> Path:
    """Where the report goes; created. Relative to the current directory if given, else in the checkout."""
    folder = options.out if options.out is not None else Path(__file__).resolve().parents[2] / "demo-report"
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(options: DemoOptions, stop: StopSignals) -> int:
    """A whole run; its exit status. Ends early when ``stop`` is set.

    Raises:
        InferenceServiceError, RobotConfigError, OSError: it cannot be started as asked for.
    """
    stage = set_stage(options)
    folder = out_folder(options)
    domain = options.domain if options.domain is not None else free_domain()
    log = LogFile(folder / "demo.log")
    table = not options.headless and sys.stdout.isatty()
    title = f"{stage.robot.name}, {options.mode}, ROS_DOMAIN_ID {domain}, Ctrl-C stops"
    tell(f"{title}; log: {log.path}")
    try:
        with isolated(domain), TableDisplay(log, title) if table else LineDisplay(log) as display, logs_to(display):
            current = Run(options, stage, display, stop)
            current.watch(domain)
    finally:
        log.close()
    from inference_service.demo.picture import write_picture  # matplotlib takes a second, which the start need not pay

    report = build_report(current.recording, current.facts(domain))
    written = write_report(report, folder), write_picture(current.recording, report, folder)
    return _conclude(report, written)


def _conclude(report: dict[str, Any], written: Sequence[Path]) -> int:
    latency = report["latency_ms"]["total"]
    tell(
        f"{report['seconds']:.1f} s, {report['actions']} actions, {report['inferences']} inferences, "
        f"latency p50 {latency['p50']} ms, p99 {latency['p99']} ms, "
        f"{report['hold_ticks_after_5s']} hold ticks after 5 s"
    )
    if report["cubes"] is not None:
        tell(f"the arm came to {report['cubes']['reached']} of {report['cubes']['done']} cubes")
    machine = report["machine"]
    if report["promises"]["P4"] == NOT_OBSERVED and machine["foreign_cores"] is not None:
        tell(
            f"P4 was not judged: too few ticks, or this machine is busy (others use {machine['foreign_cores']} cores, "
            f"a thread that only sleeps has a p99 of {machine['sleeper_p99_ms']:.0f} ms)"
        )
    for failure in report["failures"]:
        tell(f"FAILED: {failure}")
    for path in written:
        tell(str(path))
    return EXIT_FAILED if report["failures"] else EXIT_GOOD


def main(argv: Sequence[str]) -> int:
    """Entry point of ``python -m inference_service.demo``."""
    options = parse_options(argv)
    stop = StopSignals()
    stop.listen(*STOP_SIGNALS)
    try:
        with board_for(options) as board:
            status = run(board.options, stop)
            broken = board.broken_rules()
        for line in broken:
            tell(f"FAILED: a rule of the vendor's runtime was broken: {line}")
        return max(status, EXIT_FAILED) if broken else status
    except (InferenceServiceError, RobotConfigError, OSError) as error:
        sys.stderr.write(f"scripts/demo: {error}\n")
        return EXIT_CANNOT_START
