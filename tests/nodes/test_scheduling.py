"""Real-time scheduling: granted to the thread that asks and to no other, or refused with what allows it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from inference_service.nodes.dispatcher_node import DispatcherParameters, control_scheduling
from inference_service.nodes.scheduling import Scheduling
from robot_config import load_robot_config

linux = pytest.mark.skipif(sys.platform != "linux", reason="sched_setscheduler is Linux's")

GRANTED = """
import os, threading
from inference_service.nodes.scheduling import Scheduling
cpu = min(os.sched_getaffinity(0))
found = {}
def control():
    Scheduling(20, (cpu,)).apply()
    found["here"] = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.sched_getaffinity(0)
before = os.sched_getaffinity(0)
thread = threading.Thread(target=control)
thread.start(); thread.join()
assert found["here"] == (os.SCHED_FIFO, 20, {cpu}), found
assert os.sched_getscheduler(0) == os.SCHED_OTHER and os.sched_getaffinity(0) == before, "the main thread has it too"
locked = [line for line in open("/proc/self/status") if line.startswith("VmLck")][0]
assert int(locked.split()[1]) > 0, locked
"""


def in_a_process(code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def fifo_allowed() -> bool:
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))"
    return sys.platform == "linux" and in_a_process(code).returncode == 0


@linux
def test_granted_to_the_calling_thread_alone() -> None:
    if not fifo_allowed():
        pytest.skip("this user may not use SCHED_FIFO")
    result = in_a_process(GRANTED)
    assert result.returncode == 0, result.stderr


@linux
def test_refused_without_the_privilege() -> None:
    code = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "from inference_service.nodes.scheduling import Scheduling\n"
        "Scheduling(50).check()"
    )
    result = in_a_process(f"import inference_service.nodes.scheduling\n{code}")
    assert "real_time_priority 50 is not permitted" in result.stderr
    assert "SYS_NICE" in result.stderr
    assert "ValueError" in result.stderr


@linux
def test_a_core_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"cpu_affinity \[4095\]: this process may run on \["):
        Scheduling(cpus=(4095,)).check()
    assert 4095 not in os.sched_getaffinity(0)


def test_nothing_wanted_changes_nothing() -> None:
    before = sys.getswitchinterval(), os.sched_getaffinity(0)
    Scheduling().apply()
    assert (sys.getswitchinterval(), os.sched_getaffinity(0)) == before


@linux
def test_the_check_leaves_the_caller_alone() -> None:
    """It is made on a thread of its own: whoever asks keeps all cores."""
    before = os.sched_getaffinity(0)
    Scheduling(cpus=(min(before),)).check()
    assert os.sched_getaffinity(0) == before
    assert all(thread.name != "scheduling" for thread in threading.enumerate())


def test_parameters_go_before_the_robot_file(tmp_path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(
        "robot:\n  name: arm\n  control_modes:\n    model_inference:\n"
        "      executor: {real_time_priority: 80, cpu_affinity: [1, 3]}\n"
    )
    robot = load_robot_config(path)
    given = DispatcherParameters(robot_config_path=str(path))
    assert control_scheduling(robot, given) == Scheduling(80, (1, 3))
    other = given.model_copy(update={"real_time_priority": 0, "cpu_affinity": "2"})
    assert control_scheduling(robot, other) == Scheduling(0, (2,))
