"""The yardsticks for a late tick: a thread that only sleeps, and what others compute on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from inference_service.demo import machine
from inference_service.demo.machine import ForeignLoad, MachineWatch, Metronome

HZ = machine._TICKS_PER_S


def test_the_metronome_measures_its_own_intervals() -> None:
    with Metronome(0.01) as metronome:
        deadline = time.monotonic() + 10
        while metronome.p99_ms == 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert metronome.p99_ms > 5.0


def test_the_metronome_stops_at_once() -> None:
    metronome = Metronome(3600.0)
    with metronome:
        pass
    assert not metronome._thread.is_alive()


class FakeProc:
    def __init__(self, root: Path) -> None:
        self.root = root

    def machine(self, busy_s: float, idle_s: float = 0.0) -> None:
        user, steal = round(busy_s * HZ) - 100, 100
        (self.root / "stat").write_text(f"cpu  {user} 0 0 {round(idle_s * HZ)} 77 0 0 {steal} 9 9\ncpu0 1\n")

    def process(self, pid: str, used_s: float) -> None:
        (self.root / pid).mkdir(exist_ok=True)
        half = round(used_s * HZ / 2)
        (self.root / pid / "stat").write_text(f"7 (a (b) c) S {' '.join('0' * 10)} {half} {half} 0 0\n")


def test_what_others_compute_is_what_is_neither_idle_nor_ours(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.machine(busy_s=100.0)
    proc.process("self", 10.0)
    load = ForeignLoad(tmp_path)
    load._started -= 10.0
    proc.machine(busy_s=118.0, idle_s=500.0)
    proc.process("self", 12.0)
    proc.process("41", 4.0)
    assert 1.1 < load.cores([41]) < 1.2
    (tmp_path / "41" / "stat").unlink()
    assert 1.1 < load.cores([41]) < 1.2, "what a process used before it died stays ours"


def test_this_machine_can_be_watched() -> None:
    with MachineWatch(0.05) as watch:
        seen = watch.look(4.0, [1])
    assert seen.t == 4.0
    assert seen.foreign_cores >= 0.0
