"""``scripts/bench``: options, what a part leaves behind, and that one part's failure is told and harms no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from benchmarks import options, part_d  # noqa: E402
from benchmarks.measure import Goal, Series, interleave, ratio  # noqa: E402
from benchmarks.report import BEGIN, END, write_docs  # noqa: E402


def bench(out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(REPO), str(REPO / "scripts")])
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out), *words],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        check=False,
    )


def test_bytes_by_encoding(tmp_path: Path):
    done = bench(tmp_path / "out", "--only", "c")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(found) == {"machine", "command", "parts"}
    part = found["parts"]["c"]
    assert set(part) == {"data", "tables", "goals", "notes", "seconds"}
    own = part["data"]["480x640"]
    assert own["cameras"] == 2 * 480 * 640 * 3
    assert own["cameras"] < own["u8"] < 1.01 * own["cameras"] < own["f16"] < own["f32"]
    assert own["jpeg:75"] < own["jpeg:90"] < own["jpeg:95"] < own["u8"]
    assert all(goal["met"] for goal in part["goals"])
    assert "left out: no --peers" in (tmp_path / "out" / "bench.md").read_text()
    assert "| u8 |" in done.stdout


def test_a_part_that_fails_is_told_and_the_next_one_runs(tmp_path: Path):
    done = bench(tmp_path / "out", "--only", "e,c", "--device", "no_such_backend")
    assert done.returncode == 1
    parts = json.loads((tmp_path / "out" / "bench.json").read_text())["parts"]
    assert "error" in parts["e"]
    assert "error" not in parts["c"]
    assert "Failed: " in done.stdout


@pytest.mark.parametrize("words", [["--only", "a,x"], ["--seconds", "soon"], ["--fast"]])
def test_options_that_do_not_exist_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        options.main(words)
    assert words[-1].split(",")[-1] in capsys.readouterr().err


def test_what_has_to_be_installed(capsys: pytest.CaptureFixture[str]):
    for words, needs in ([], ["light"]), (["--peers", "--device", "cuda"], ["lerobot", "peers"]):
        options.main(words)
        assert capsys.readouterr().out.split() == needs


def test_links_are_left_out_with_the_reason_where_there_is_no_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = part_d.run(None)  # type: ignore[arg-type]  # nothing is asked of the bench
    assert "root" in result.notes[0]
    assert not result.data["links"]


def test_systems_are_measured_in_turn_and_compared_repeat_by_repeat():
    order: list[str] = []

    def system(name: str, values: list[float]):
        def run(rounds: int, _period_s: float) -> dict:
            order.append(name)
            return {"stages": {"total": [values[len(order) // 2 % len(values)]] * rounds}, "cpu_ms": 1.0}

        return run

    series = interleave({"a": system("a", [1.0]), "b": system("b", [2.0])}, 3, {"a": 2, "b": 4}, warm=0)
    assert order == ["a", "b"] * 3
    assert series["b"].summary()["rounds"] == 12
    assert ratio(series["a"], series["b"]) == 0.5


def test_a_slow_moment_that_meets_both_systems_does_not_show_in_their_ratio():
    ours, theirs = Series(), Series()
    for slow in (1.0, 10.0, 1.0, 3.0, 50.0):
        ours.stages.append({"total": [2 * slow]})
        theirs.stages.append({"total": [4 * slow]})
    assert ratio(ours, theirs) == 0.5


@pytest.mark.parametrize(("at_least", "met"), [(False, True), (True, False)])
def test_a_goal_knows_its_direction(at_least: bool, met: bool):
    assert Goal("g", 1.0, 2.0, at_least).to_json()["met"] is met


def test_results_go_between_the_marks_of_the_page(tmp_path: Path):
    page, picture = tmp_path / "page.md", tmp_path / "robots.png"
    picture.write_bytes(b"png")
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for text in ("new\n", "newer\n"):
        write_docs(text, [picture], page)
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n![robots](images/bench_robots.png)\n\n{END}\nafter\n"
    assert (tmp_path / "images" / "bench_robots.png").read_bytes() == b"png"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="wants the lines"):
        write_docs("text", [], page)


def test_the_page_in_docs_has_the_marks():
    text = (REPO / "docs" / "benchmarks.md").read_text()
    assert text.index(BEGIN) < text.index(END)
