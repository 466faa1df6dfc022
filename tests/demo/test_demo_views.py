"""The live table, the status line and the picture, on runs that went well, badly and not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from demo_streams import FACTS, TOPIC, good_run, health, record
from rich.console import Console

from inference_service.demo.display import LineDisplay, LogFile, TableDisplay
from inference_service.demo.events import Command
from inference_service.demo.picture import DPI, SIZE_INCHES, write_picture
from inference_service.demo.recording import Recording
from inference_service.demo.report import build_report
from inference_service.demo.table import look, render, status_line


def text_of(recording: Recording, now: float) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(render(recording.read(lambda r: look(r, now)), "distributed", ["first line", "[stats] count=1"]))
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(out, str)
    return out


def test_the_table_shows_the_run() -> None:
    recording = record([*good_run(10), health(10.0, "sim_robot", **{"fps.top": 19.5})])
    shown = text_of(recording, 10.0)
    for part in ("20.0 Hz", "READY onnx cpu", "queue", "30", "inference", "30.0", "camera top", "19.5 fps", "P3",
                 "action_dispatcher", "OK", "[stats] count=1", "position", "target"):  # fmt: skip
        assert part in shown, part


def test_the_table_names_a_broken_promise() -> None:
    assert "joint 1 was sent 7.0000" in text_of(record([*good_run(3), Command(3.0, TOPIC, (7.0,) * 6)]), 3.0)


def test_the_table_and_the_line_stand_before_anything_has_come() -> None:
    empty = record([])
    assert "control rate" in text_of(empty, 0.0)
    assert "no inference yet" in status_line(empty.read(lambda r: look(r, 0.0)))


def test_the_status_line_is_one_line_with_the_figures() -> None:
    line = status_line(record(good_run(10)).read(lambda r: look(r, 10.0)))
    assert line == (
        "   10 s | 20.0 Hz | queue 30 | hold 2 | latency 30.0 ms (p99 30.0) | engine READY onnx cpu | promises kept"
    )


def test_displays_keep_every_line_in_the_log_file(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "demo.log")
    quiet = Console(file=io.StringIO(), width=120)
    with TableDisplay(log, "title", quiet) as table:
        table.line("sim_robot", "one [not markup]")
        table.show(record(good_run(1)))
    with LineDisplay(log, quiet) as lines:
        lines.line("pure_inference", "two")
        lines.show(record(good_run(1)))
    log.close()
    assert log.path.read_text() == "sim_robot: one [not markup]\npure_inference: two\n"


@pytest.mark.parametrize("seconds", [0, 10])
def test_the_picture_is_written_whatever_was_seen(tmp_path: Path, seconds: int) -> None:
    recording = record(good_run(seconds) if seconds else [])
    if seconds:
        recording.add_frame("top", np.full((48, 64, 3), 200, np.uint8))
        recording.add_frame("wrist", np.zeros((48, 64, 3), np.uint8))
    path = write_picture(recording, build_report(recording, FACTS), tmp_path)
    with Image.open(path) as picture:
        assert picture.size == (round(SIZE_INCHES[0] * DPI), round(SIZE_INCHES[1] * DPI))
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
