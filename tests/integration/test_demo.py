"""The demonstration, whole: every node a process, real DDS, the simulated arm, and the report at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("onnxruntime")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

REPO = Path(__file__).resolve().parents[2]
PROCESSES = {
    "distributed": ["sim_robot", "pure_inference", "act_inference_node", "action_dispatcher"],
    "monolithic": ["sim_robot", "act_inference_node", "action_dispatcher"],
}


def start(mode: str, domain: int, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "inference_service.demo", "--headless", "--mode", mode, "--domain", str(domain)]
    return subprocess.Popen(
        [*command, "--out", str(out), *words],
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(domain: int) -> list[str]:
    """Command lines of the nodes that run in a domain: what a launcher left behind shows here."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes() if folder.name.isdecimal() else b""
            if f"ROS_DOMAIN_ID={domain}".encode() in environment.split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if "inference_service" in line]


def broken(report: dict[str, Any]) -> dict[str, str]:
    """Promises that the run broke. P4 is about time, and other work on this machine may spoil it."""
    return {p: t for p, t in report["promises"].items() if t not in ("kept", "not observed") and p != "P4"}


@pytest.mark.parametrize("mode", ["distributed", "monolithic"])
def test_ten_seconds_of_motion(mode: str, domain_id: int, tmp_path: Path) -> None:
    """The arm moves on the policy, every promise that shows holds, every documented line is printed."""
    demo = start(mode, domain_id, tmp_path, "--seconds", "10")
    said, _ = demo.communicate(timeout=110)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [p["name"] for p in report["processes"]] == PROCESSES[mode]
    assert broken(report) == {}, said
    assert [f for f in report["failures"] if not f.startswith("P4")] == [], said
    assert demo.returncode == (1 if report["failures"] else 0)
    assert report["mode"] == mode
    assert report["actions"] > 100
    assert report["inferences"] >= 3
    assert report["latency_ms"]["total"]["p50"] > 0
    assert report["backend"] == "onnx"
    assert not any(p["imports_torch"] for p in report["processes"])
    assert [text for text, seen in report["log_lines"].items() if seen is False] == []
    assert all(p["ready_s"] is not None for p in report["processes"]), said
    assert (tmp_path / "report.png").stat().st_size > 30_000
    assert said.rstrip().endswith(str(tmp_path / "report.png"))
    assert processes_of(domain_id) == []


def test_ctrl_c_stops_everything_and_still_reports(domain_id: int, tmp_path: Path) -> None:
    demo = start("monolithic", domain_id, tmp_path)
    try:
        wait_for_inference(tmp_path / "demo.log", demo)
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=40)
    finally:
        demo.kill()
    assert json.loads((tmp_path / "report.json").read_text())["inferences"] >= 1
    assert str(tmp_path / "report.png") in said
    assert processes_of(domain_id) == []


def test_a_node_that_dies_fails_the_run_and_is_named(domain_id: int, tmp_path: Path) -> None:
    demo = start("monolithic", domain_id, tmp_path, "--seconds", "5")
    try:
        wait_for_inference(tmp_path / "demo.log", demo)
        os.kill(pid_of("sim_robot", domain_id), signal.SIGKILL)
        demo.communicate(timeout=60)
    finally:
        demo.kill()
    report = json.loads((tmp_path / "report.json").read_text())
    assert any("sim_robot died with status -9" in failure for failure in report["failures"])
    assert demo.returncode == 1
    assert processes_of(domain_id) == []


def test_a_robot_that_does_not_exist_is_told_in_a_sentence(domain_id: int, tmp_path: Path) -> None:
    demo = start("monolithic", domain_id, tmp_path, "--robot", "so101_simm")
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "so101_sim" in said
    assert "Traceback" not in said


def wait_for_inference(log: Path, demo: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 70
    while not (log.exists() and "First inference received" in log.read_text()):
        assert demo.poll() is None, "the demonstration ended by itself"
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def pid_of(name: str, domain: int) -> int:
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
            environment = (folder / "environ").read_bytes().split(b"\0") if name.encode() in words else []
        except OSError:
            continue
        if f"ROS_DOMAIN_ID={domain}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"{name} does not run in domain {domain}")
