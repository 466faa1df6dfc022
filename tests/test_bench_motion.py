"""Part h of the benchmark: what it shows about the hand-over of chunks holds on every machine, for it uses no clock."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from benchmarks.motion import Drive


def jump(setting: str, delay_s: float) -> float:
    return Drive(setting, delay_s).ride(200).figures()["border_max"]


def test_playing_a_chunk_from_its_start_jumps_back_by_the_delay() -> None:
    assert jump("from its first action", 0.3) > 3 * jump("from its first action", 0.0)


def test_by_policy_step_the_delay_does_not_show() -> None:
    assert abs(jump("by policy step", 0.3) - jump("by policy step", 0.0)) < 0.05


def test_ensembling_and_real_time_chunking_smooth_what_chunks_disagree_about() -> None:
    for delay_s in (0.0, 0.05, 0.15, 0.3):
        plain = jump("by policy step", delay_s)
        assert jump("temporal ensembling", delay_s) < 0.6 * plain
        assert jump("real-time chunking", delay_s) < 0.4 * plain


def test_the_queue_never_runs_empty_at_these_delays() -> None:
    for setting in ("by policy step", "real-time chunking"):
        assert Drive(setting, 0.3).ride(200).figures()["holds"] == 0
