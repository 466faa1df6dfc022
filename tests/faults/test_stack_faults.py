"""The whole stack as processes on real DDS, with parts of it killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from inference_service.launcher import Launcher
from robot_config import load_robot_config
from robot_config.plan import LaunchArguments, Plan, make_plan
from tests.faults.observer import ERROR, Observer
from tests.nodes.harness import wait_until

LIMITS = load_robot_config("so101_sim").safety.joint_limits
Stack = tuple[Launcher, Observer]


@pytest.fixture
def stack(domain_id: int) -> Iterator[Callable[..., Stack]]:
    opened: list[Stack] = []

    def start(**sim_parameters: str | float) -> Stack:
        words = ["robot_config:=so101_sim", "execution_mode:=distributed", "use_sim:=true", "cloud_local:=true"]
        plan = make_plan(load_robot_config("so101_sim"), LaunchArguments.parse([*words, "device:=onnx"]))
        extra = {"renderer": "simple", **sim_parameters}
        processes = tuple(
            replace(p, parameters={**p.parameters, **extra}) if p.name == "sim_robot" else p for p in plan.processes
        )
        launcher, observer = Launcher(Plan(processes)), Observer(domain_id)
        opened.append((launcher, observer))
        launcher.start()
        assert wait_until(lambda: observer.chunks >= 2 and observer.state() == "running", 60.0), observer.message
        return launcher, observer

    yield start
    for launcher, observer in opened:
        launcher.stop()
        every_command_is_allowed(observer)
        observer.close()


def every_command_is_allowed(observer: Observer) -> None:
    """P3, looked at from outside: finite, and within the robot's limits."""
    commands = np.array(observer.taken())
    assert np.isfinite(commands).all()
    for column, joint in enumerate(("1", "2", "3", "4", "5")):
        limits = LIMITS[joint]
        assert commands[:, column].min() >= limits.min - 1e-6 and commands[:, column].max() <= limits.max + 1e-6


def pid_of(launcher: Launcher, name: str) -> int:
    return next(p.pid for p in launcher.processes if p.name == name)


def pid_dead(launcher: Launcher, name: str) -> bool:
    return next(p for p in launcher.processes if p.name == name).returncode is not None


def test_the_engine_killed_and_started_again(
    stack: Callable[..., Stack], record_property: Callable[[str, object], None]
) -> None:
    """Fault: SIGKILL of the engine. Expected: ERROR, then hold, then safe; actions again once it is back.

    Invariant: nobody touches the other processes, and the safe behaviour (hold) commands one pose only.
    """
    launcher, observer = stack()
    os.kill(pid_of(launcher, "pure_inference"), signal.SIGKILL)
    killed = time.monotonic()
    assert wait_until(lambda: observer.level.get("act_inference_node") == ERROR, 10.0)
    record_property("seconds_from_kill_to_error", round(time.monotonic() - killed, 2))
    assert "engine is lost" in observer.message["act_inference_node"]
    assert wait_until(lambda: observer.state() == "safe", 15.0), observer.values["action_dispatcher"]
    assert observer.level["action_dispatcher"] == ERROR
    observer.level.pop("pure_inference", None)
    before = len(observer.taken())
    assert wait_until(lambda: len(observer.taken()) >= before + 10)
    assert np.ptp(observer.taken()[before:], axis=0).max() == 0.0
    chunks = observer.chunks
    launcher.restart("pure_inference")
    assert wait_until(lambda: observer.level.get("pure_inference") == 0, 30.0)
    ready = time.monotonic()
    assert wait_until(lambda: observer.chunks > chunks and observer.state() == "running", 30.0), observer.message
    record_property("seconds_from_ready_to_actions", round(time.monotonic() - ready, 2))
    assert wait_until(lambda: observer.level["act_inference_node"] == 0)
    assert [p.name for p in launcher.processes if p.failed] == []


def test_the_engine_stopped_in_its_tracks(stack: Callable[..., Stack]) -> None:
    """Fault: SIGSTOP, then SIGCONT. Expected: as if it had died, and its late reply moves nothing."""
    launcher, observer = stack()
    engine = pid_of(launcher, "pure_inference")
    os.kill(engine, signal.SIGSTOP)
    assert wait_until(lambda: observer.state() == "safe", 20.0), observer.values["action_dispatcher"]
    chunks = observer.chunks
    os.kill(engine, signal.SIGCONT)
    assert wait_until(lambda: observer.chunks > chunks and observer.state() == "running", 30.0), observer.message


def test_the_device_killed_and_started_again(stack: Callable[..., Stack]) -> None:
    """Fault: SIGKILL of the device node, goals and all. Expected: safe, then running again by itself."""
    launcher, observer = stack()
    os.kill(pid_of(launcher, "act_inference_node"), signal.SIGKILL)
    assert wait_until(lambda: observer.state() == "safe", 20.0), observer.values["action_dispatcher"]
    assert observer.level["action_dispatcher"] == ERROR
    chunks = observer.chunks
    launcher.restart("act_inference_node")
    assert wait_until(lambda: observer.chunks > chunks and observer.state() == "running", 30.0), observer.message


def test_a_restarted_dispatcher_begins_where_the_arm_is(stack: Callable[..., Stack]) -> None:
    """Fault: SIGKILL of the dispatcher. Invariant: nothing jumps; the first command is near the measured pose."""
    launcher, observer = stack()
    os.kill(pid_of(launcher, "action_dispatcher"), signal.SIGKILL)
    assert wait_until(lambda: pid_dead(launcher, "action_dispatcher"))
    observer.values.clear()
    measured, last = observer.joints, len(observer.taken())
    launcher.restart("action_dispatcher")
    assert wait_until(lambda: len(observer.taken()) > last, 30.0), observer.message
    assert measured is not None
    assert np.abs(observer.taken()[last] - measured[:5]).max() < 0.15


def test_a_camera_that_dies_and_comes_back(stack: Callable[..., Stack]) -> None:
    """Fault: the wrist camera is mute for a while. Expected: it is named, the arm is held and goes on by itself."""
    _, observer = stack(fault_mute_camera="wrist", fault_after_s=12.0, fault_for_s=6.0)

    def named() -> bool:
        message = observer.message.get("act_inference_node", "")
        return observer.level.get("act_inference_node") == ERROR and "/camera/wrist/image_raw" in message

    assert wait_until(named, 40.0), observer.message
    assert "/camera/top/image_raw" not in observer.message["act_inference_node"]
    chunks = observer.chunks
    assert wait_until(lambda: observer.chunks > chunks + 1 and observer.state() == "running", 30.0), observer.message
