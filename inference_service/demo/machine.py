"""Whether a late tick is this machine's doing: what a sleeping thread sees, and what others compute here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from inference_service.demo.events import Machine
from inference_service.dispatch.timing import TickClock

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of the first line of /proc/stat (proc(5)): all but idle (3), iowait (4) and guest times, which user time includes.
_BUSY = (0, 1, 2, 5, 6, 7)


class Metronome:
    """A thread that wakes every ``period_s`` on the monotonic clock and does nothing but measure the intervals."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._clock = TickClock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="metronome", daemon=True)

    def __enter__(self) -> Metronome:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _beat(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._clock.record(time.monotonic_ns())
            missed = max(0.0, time.monotonic() - due) // self._period_s
            due += self._period_s * (1 + missed)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the intervals so far; 0 before the second."""
        return self._clock.times().p99_ms


class ForeignLoad:
    """How many cores everything else on this machine has kept busy since the start (a hypervisor's theft included)."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._started = time.monotonic()
        self._busy_at_start = self._busy_s()
        self._mine_at_start = self._used_s("self") or 0.0
        self._ours: dict[int, float] = {}

    def cores(self, pids: Iterable[int]) -> float:
        """Average number of cores; ``pids`` are the processes that this run has started."""
        for pid in pids:
            self._ours[pid] = self._used_s(str(pid)) or self._ours.get(pid, 0.0)
        mine = (self._used_s("self") or 0.0) - self._mine_at_start
        foreign = self._busy_s() - self._busy_at_start - mine - sum(self._ours.values())
        return max(0.0, foreign) / max(time.monotonic() - self._started, 1e-3)

    def _busy_s(self) -> float:
        columns = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:]
        return sum(int(columns[i]) for i in _BUSY) / _TICKS_PER_S

    def _used_s(self, pid: str) -> float | None:
        """CPU time of a process with all its threads; ``None`` where it has ended."""
        try:
            text = (self._proc / pid / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name, in brackets, may hold anything; utime and stime are the 12th and 13th field after it.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class MachineWatch:
    """Both, as an event; a context in which they are measured."""

    def __init__(self, period_s: float) -> None:
        self._metronome = Metronome(period_s)
        self._load = ForeignLoad()

    def __enter__(self) -> MachineWatch:
        self._metronome.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._metronome.__exit__()

    def look(self, now: float, pids: Iterable[int]) -> Machine:
        """What was measured since the start."""
        return Machine(now, self._metronome.p99_ms, self._load.cores(pids))
