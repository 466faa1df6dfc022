"""The whole stack with every node on the ``ros`` transport, seen by a node without ROS.

On rclpy where it is installed, else on the simulator of it (``tests/simulators/rclpy``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.transport import create_node
from tests.nodes.harness import wait_until
from tests.simulators.rclpy.rig import SEARCH_PATH

pytest.importorskip("mujoco")
ROOT = Path(__file__).parents[2]
STACK = (
    "launch robot_config:=so101_sim control_mode:=model_inference execution_mode:=distributed use_sim:=true "
    "cloud_local:=true transport:=ros"
)


@pytest.fixture
def stack(domain_id: int, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The launcher's process and the file with what all nodes print."""
    log = tmp_path / "stack.log"
    path = os.pathsep.join((str(ROOT), *SEARCH_PATH, os.environ.get("PYTHONPATH", "")))
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "inference_service.cli", *STACK.split()],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        yield process, log
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_the_robot_moves_and_the_stack_ends_cleanly(stack: tuple[subprocess.Popen[str], Path]) -> None:
    process, log = stack
    commands: list[float] = []
    node = create_node("visitor")
    node.create_subscription(
        "/arm_position_controller/commands", "std_msgs/msg/Float64MultiArray", lambda m: commands.append(m.data[0])
    )
    try:
        assert wait_until(lambda: "dispatching actions" in log.read_text(), 80), log.read_text()[-3000:]
        before = len(commands)
        assert wait_until(lambda: len(commands) > before + 20), "commands reach a node without ROS"
    finally:
        node.close()
    os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() == 0
    assert "Traceback" not in log.read_text(), log.read_text()[-3000:]
