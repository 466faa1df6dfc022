"""report.json: the figures of a synthetic run, and what makes a run fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from demo_streams import FACTS, TOPIC, dispatcher, good_run, health, record, with_ticks

from inference_service.demo.events import Card, Command
from inference_service.demo.processes import look_at
from inference_service.demo.report import build_report, percentiles, write_report


def test_the_figures_of_a_good_run(tmp_path: Path) -> None:
    report = build_report(record(good_run(10)), FACTS)
    assert json.loads(write_report(report, tmp_path).read_text()) == report
    assert report["seconds"] == 10.0
    assert report["inferences"] == 10
    assert (report["actions"], report["hold_ticks"], report["hold_ticks_after_5s"]) == (198, 2, 0)
    assert report["tick_ms"] == {"period": 50.0, "p50": 50.0, "p99": 51.5, "max": 58.0}
    assert report["observed_tick_ms"] == {"p50": 50.0, "p99": 50.0, "max": 50.0}
    assert report["latency_ms"]["wire"] == {"p50": 2.0, "p99": 2.0}
    assert list(report["latency_ms"]) == ["total", "preprocess", "wire", "queue", "inference", "postprocess"]
    assert report["processes"][1] == {
        "name": "action_dispatcher", "rss_mb": 80.0, "ready_s": 1.0, "imports_torch": False,
    }  # fmt: skip
    assert report["processes"][0]["ready_s"] is None
    assert (report["backend"], report["device"], report["mode"]) == ("onnx", "cpu", "distributed")
    assert report["failures"] == []


def test_holds_count_from_five_seconds_after_the_first_command() -> None:
    late = [*good_run(7), dispatcher(7.0, hold_ticks=9)]
    assert build_report(record(late), FACTS)["hold_ticks_after_5s"] == 7
    early = [*good_run(4), dispatcher(4.9, hold_ticks=9), *with_ticks(4.0, 3.0), dispatcher(7.0, hold_ticks=9)]
    assert build_report(record(early), FACTS)["hold_ticks_after_5s"] == 0


def test_the_simulated_robot_says_how_many_cubes_were_reached() -> None:
    seen = [*good_run(3), health(3.0, "sim_robot", cubes=4, cubes_reached=3)]
    assert build_report(record(seen), FACTS)["cubes"] == {"done": 4, "reached": 3}
    assert build_report(record(good_run(3)), FACTS)["cubes"] is None, "another robot"


def test_a_run_fails_when_nothing_moves_a_process_dies_or_a_promise_breaks() -> None:
    assert build_report(record([]), FACTS)["failures"] == ["no action reached the robot"]
    died = replace(FACTS, died=("pure_inference ended with status 1",))
    assert build_report(record(good_run(10)), died)["failures"] == ["pure_inference ended with status 1"]
    bad = build_report(record([*good_run(10), Command(10.0, TOPIC, (7.0,) * 6)]), FACTS)
    assert [f.split(":")[0] for f in bad["failures"]] == ["P3 broken"]


def test_an_empty_run_is_valid_json_without_invented_figures(tmp_path: Path) -> None:
    report = build_report(record([]), FACTS)
    assert json.loads(write_report(report, tmp_path).read_text()) == report
    assert report["latency_ms"]["total"] == {"p50": None, "p99": None}
    assert report["tick_ms"]["p99"] is None


def test_a_diagnostic_that_is_no_number_does_not_reach_the_report(tmp_path: Path) -> None:
    report = build_report(record([dispatcher(1.0, tick_max_ms="nan", tick_p99_ms="")]), FACTS)
    assert report["tick_ms"]["max"] is None
    write_report(report, tmp_path)


def test_what_comes_while_the_stack_is_stopped_does_not_count() -> None:
    recording = record(good_run(10))
    recording.freeze()
    recording.see(Command(10.1, TOPIC, (7.0,) * 6))
    report = build_report(recording, FACTS)
    assert report["failures"] == []
    assert report["actions"] == 198


def test_percentiles() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == {"p50": 50.5, "p99": 99.01}


def test_the_engine_of_a_monolithic_run_is_the_device_node() -> None:
    events = [e for e in good_run(2) if not isinstance(e, Card)]
    node = health(2.0, "act_inference_node", backend_type="lerobot", device="cuda:0")
    report = build_report(record([*events, node]), replace(FACTS, mode="monolithic"))
    assert (report["backend"], report["device"]) == ("lerobot", "cuda:0")


def test_a_process_is_looked_at_in_proc() -> None:
    here = look_at(os.getpid(), "pytest", 1.0)
    assert here is not None
    assert here.rss_mb > 5
    assert here.threads >= 1
    assert here.fds >= 3
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(timeout=30)
    assert look_at(child.pid, "gone", 1.0) is None


def test_torch_shows_in_the_memory_map(tmp_path: Path) -> None:
    base = tmp_path / "7"
    (base / "fd").mkdir(parents=True)
    (base / "status").write_text("Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t3\n")
    (base / "maps").write_text("7f00 r-xp /env/lib/python3.12/site-packages/torch/lib/libtorch_cpu.so\n")
    seen = look_at(7, "x", 0.0, proc=tmp_path)
    assert seen is not None
    assert (seen.rss_mb, seen.threads, seen.imports_torch) == (2.0, 3, True)
