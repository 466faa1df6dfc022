"""Stop signals that come at the worst moment: while the main thread holds a lock that a handler would want."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference_service.core.stop_signals import StopSignals, stop_signals

ROOT = Path(__file__).resolve().parents[2]
BURST = """
import signal, sys, threading, time

def at_worst(frame, event, _argument):
    # An Event and a Condition hold their lock from here on.
    if event == "return" and frame.f_code is threading.Condition.__enter__.__code__ and heard():
        signal.raise_signal(signal.SIGINT)

def heard():
    handler = signal.getsignal(signal.SIGINT)
    return callable(handler) and handler is not signal.default_int_handler

def ask():
    while not heard():
        time.sleep(0.01)
    time.sleep(0.5)
    for _ in range(3):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=ask, daemon=True).start()
"""
LISTENS = """
from inference_service.core.stop_signals import StopSignals
def main():
    stop = StopSignals()
    stop.listen(signal.SIGINT)
    while not stop.wait(0.05):
        pass
    return 0
"""
LAUNCHES = """
from inference_service.launcher import Launcher
from robot_config.plan import Plan, ProcessSpec
def main():
    stays = [sys.executable, "-c", "import time; time.sleep(60)"]
    return Launcher(Plan((ProcessSpec("p", "stays", "stays", {}),)), command=lambda _spec: stays).run()
"""
CONTAINER = """
from inference_service.container import main as container
def main():
    return container.main(["engine"])
"""
DEMO = """
from inference_service.demo import runner
def wait(_options, stop):
    while not stop.wait(0.05):
        pass
    return 0
def main():
    runner.run = wait
    return runner.main(["--headless"])
"""
NODE = """
from inference_service.nodes import runtime
class App:
    failure = None
    def close(self): pass
def main():
    return runtime.run_node(runtime.NodeParameters, lambda _node, _parameters: App(), ["-p", "node_name:=patient"])
"""


@pytest.mark.parametrize(
    ("program", "status"),
    [(LISTENS, 0), (LAUNCHES, 0), (CONTAINER, 2), (DEMO, 0), (NODE, 0)],
    ids=["itself", "launcher", "container", "demo", "node"],
)
def test_signals_amid_a_wait_end_the_process_in_order(program: str, status: int, tmp_path: Path) -> None:
    script = f"{BURST}{program}\nsys.setprofile(at_worst)\nsys.exit(main())\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "POLICY_PATH": str(tmp_path / "none")}
    env |= {"INFERENCE_SERVICE_STATUS_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr


def test_set_stays_set_for_everyone_who_waits() -> None:
    stop = StopSignals()
    assert not stop.wait(0.0)
    assert not stop.is_set()
    stop.set()
    assert [stop.wait(0.0) for _ in range(3)] == [True] * 3
    assert stop.is_set()


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals(signal.SIGTERM) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(0.0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_stop_signals_are_caught_in_one_place() -> None:
    """What else sets a handler in our programs lets one be, or ends the process: it holds nothing to wait for."""
    found = set()
    for path in (ROOT / "inference_service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "signal.signal":
                found.add(path.relative_to(ROOT / "inference_service").as_posix())
    assert found == {"core/stop_signals.py", "__main__.py", "launch_guard.py"}
