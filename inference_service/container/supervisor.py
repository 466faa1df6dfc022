"""Keeps a container's nodes running: one that dies is started again while the others go on.

A dispatcher holds the robot while its policy node is restarted; Docker could only restart both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from inference_service.core.stop_signals import StopSignals
from inference_service.launcher import Launcher, ManagedProcess
from inference_service.readiness import write_status

EXIT_BAD_CONFIGURATION = 2
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
CONFIGURATION_DELAY_S = 15.0
"""A configuration does not mend itself soon, but a policy directory may be filled meanwhile."""
STEADY_S = 60.0
"""A node that ran this long starts again at once when it dies."""
_POLL_S = 0.2

_logger = logging.getLogger("container")


class Supervisor:
    """Starts again what dies, later each time.

    Args:
        launcher: started by :meth:`run`.
        clock: monotonic seconds.
    """

    def __init__(self, launcher: Launcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._launcher = launcher
        self._clock = clock
        self._due: dict[str, float] = {}
        self._delays: dict[str, float] = {}

    def run(self, stop: StopSignals) -> int:
        """Until ``stop``; 0 when all nodes ended in order then, 1 otherwise."""
        self._launcher.start()
        while not stop.wait(_POLL_S):
            self.step()
        self._launcher.stop()
        return 1 if any(process.failed for process in self._launcher.processes) else 0

    def step(self) -> None:
        """Take note of who died, and start whose time has come."""
        for dead in self._launcher.poll():
            delay = self._delay(dead)
            self._due[dead.name] = self._clock() + delay
            message = f"ended with exit code {dead.returncode}, starts again in {delay:g} s"
            _logger.warning("%s %s", dead.name, message)
            write_status(dead.name, ready=False, message=message)
        for name in [name for name, due in self._due.items() if due <= self._clock()]:
            del self._due[name]
            self._launcher.restart(name)

    def _delay(self, dead: ManagedProcess) -> float:
        if dead.returncode == EXIT_BAD_CONFIGURATION:
            return CONFIGURATION_DELAY_S
        lived = self._clock() - dead.started_at
        last = 0.0 if lived >= STEADY_S else self._delays.get(dead.name, 0.0)
        self._delays[dead.name] = min(LONGEST_DELAY_S, max(FIRST_DELAY_S, 2 * last))
        return self._delays[dead.name]
