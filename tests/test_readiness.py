"""What a health check sees of the nodes on a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_service import readiness
from inference_service.cli import main


@pytest.fixture
def status_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(readiness.STATUS_DIR, str(tmp_path))
    return tmp_path


def test_all_ready(status_dir: Path) -> None:
    readiness.write_status("a", ready=True, message="")
    assert readiness.check(["a"]) == []
    assert main(["health", "a"]) == 0


@pytest.mark.parametrize("expected", [["a", "b"], []])
def test_a_node_that_has_not_started(status_dir: Path, expected: list[str]) -> None:
    if expected:
        readiness.write_status("a", ready=True, message="")
        assert readiness.check(expected) == ["b: has not started"]
    else:
        assert "no node" in readiness.check(expected)[0]
    assert main(["health", *expected]) == 1


def test_a_node_says_why_it_is_not_ready(status_dir: Path) -> None:
    readiness.write_status("a", ready=False, message="engine is LOADING")
    assert readiness.check([]) == ["a: engine is LOADING"]


def test_a_node_that_hangs_or_was_killed(status_dir: Path) -> None:
    readiness.write_status("a", ready=True, message="")
    path = status_dir / "a.json"
    status = json.loads(path.read_text())
    path.write_text(json.dumps({**status, "monotonic": status["monotonic"] - 60}))
    assert "a: silent for 60 s" in readiness.check([])


def test_a_node_that_left_in_order_is_not_waited_for(status_dir: Path) -> None:
    readiness.write_status("a", ready=True, message="")
    readiness.write_status("b", ready=True, message="")
    readiness.remove_status("b")
    assert readiness.check(["a"]) == []


def test_a_garbled_status_is_named(status_dir: Path) -> None:
    (status_dir / "a.json").write_text("{")
    assert "a: status cannot be read" in readiness.check([])[0]


def test_without_a_directory_nothing_is_written_and_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(readiness.STATUS_DIR, raising=False)
    readiness.write_status("a", ready=True, message="")
    assert readiness.STATUS_DIR in readiness.check([])[0]
