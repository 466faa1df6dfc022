"""Containers that die, hang and come back in any order: the stack converges and the promises hold."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_rig import PATIENCE_S, Observer, Stack, observer, stack, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

ROLES = ("device", "engine", "sim")


@pytest.fixture(scope="module")
def running(images: None, domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Observer]]:
    """One stack for all tests here: each leaves it moving."""
    where: Path = tmp_path_factory.mktemp("faults")
    with (
        observer(domain) as seen,
        stack(where, "isvc-faults", ["cloud_local"], ROS_DOMAIN_ID=str(domain)) as one,
    ):
        one.run("up", "--detach")
        seen.wait_moving(one)
        one.wait_healthy(*ROLES)
        yield one, seen


def _chunks_stop(seen: Observer) -> None:
    """Until no chunk has come for two seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        before = seen.counts()[0]
        time.sleep(2.0)
        if seen.counts()[0] == before:
            return
    raise AssertionError("chunks go on")


def _dispatcher_level(seen: Observer) -> int:
    status = seen.recording.read(lambda r: r.health.get("action_dispatcher"))
    return status.level if status else -1


def _finds_shared_memory(one: Stack) -> int:
    """How often the device has said so."""
    log: bytes = one.container("device").logs()
    return log.count(b"through shared memory")


def test_engine_killed_and_started_again(running: tuple[Stack, Observer]) -> None:
    """Fault: SIGKILL. Expected: hold, ERROR in diagnostics, motion once it is back. Invariant: all promises."""
    one, seen = running
    engine = one.container("engine")
    shared = _finds_shared_memory(one)
    engine.kill()
    try:
        until(lambda: _dispatcher_level(seen) == 2, "the dispatcher says ERROR")
        assert one.health("device") == "healthy", "the device does its own part without an engine"
    finally:
        engine.start()
    seen.wait_moving(one)
    assert _finds_shared_memory(one) > shared, "the engine's new memory is found too"
    assert seen.broken() == {}


def test_engine_paused_for_half_a_minute(running: tuple[Stack, Observer]) -> None:
    """Fault: a frozen engine, its DDS participant included. Expected: hold, then motion. Invariant: all promises."""
    one, seen = running
    engine = one.container("engine")
    engine.pause()
    paused = time.monotonic()
    try:
        _chunks_stop(seen)
        until(lambda: _dispatcher_level(seen) == 2, "the dispatcher says ERROR")
        time.sleep(max(0.0, paused + 30.0 - time.monotonic()))
    finally:
        engine.unpause()
    seen.wait_moving(one)
    assert seen.broken() == {}


def test_device_restarted(running: tuple[Stack, Observer]) -> None:
    one, seen = running
    one.container("device").restart()
    seen.wait_moving(one)
    one.wait_healthy("device")
    assert seen.broken() == {}


def test_a_robot_that_falls_silent(running: tuple[Stack, Observer]) -> None:
    """Fault: no joint state, no picture. Expected: a device that its health check finds unhealthy, until they are back.
    Invariant: all promises."""
    one, seen = running
    robot = one.container("sim")
    robot.stop()
    try:
        until(lambda: one.health("device") == "unhealthy", "the device is unhealthy")
        assert one.health("engine") == "healthy"
    finally:
        robot.start()
    seen.wait_moving(one)
    one.wait_healthy("device")
    assert seen.broken() == {}


def test_a_node_killed_within_its_container(running: tuple[Stack, Observer]) -> None:
    """The policy node is started again beside its dispatcher, which holds meanwhile; the container stays."""
    one, seen = running
    device = one.container("device")
    began = device.attrs["State"]["StartedAt"]
    processes = device.top()["Processes"]
    os.kill(next(int(row[1]) for row in processes if "run lerobot_policy_node" in row[-1]), signal.SIGKILL)
    seen.wait_moving(one)
    device.reload()
    assert device.attrs["State"]["StartedAt"] == began
    assert "act_inference_node ended with exit code -9, starts again in 1 s" in one.logs("device")
    one.wait_healthy("device")


def test_a_container_that_dies_is_started_again(running: tuple[Stack, Observer]) -> None:
    """Fault: its first process is gone, with no command of Docker's. Expected: Docker starts the container again."""
    one, seen = running
    device = one.container("device")
    os.kill(device.attrs["State"]["Pid"], signal.SIGKILL)

    def again() -> bool:
        device.reload()
        return bool(device.attrs["State"]["Running"] and device.attrs["RestartCount"] == 1)

    until(again, "the device's container runs again")
    seen.wait_moving(one)
    one.wait_healthy("device")


def test_started_in_every_order(running: tuple[Stack, Observer]) -> None:
    one, seen = running
    containers = {role: one.container(role) for role in ROLES}
    for order in itertools.permutations(ROLES):
        for role in ROLES:
            containers[role].stop()
        for role in order:
            containers[role].start()
            time.sleep(1.0)
        seen.wait_moving(one)
    assert seen.broken() == {}


def test_two_stacks_on_one_host_do_not_meet(running: tuple[Stack, Observer], tmp_path: Path) -> None:
    """Another robot with a domain of its own and no engine gets nothing from this one's engine."""
    one, seen = running
    other = 230
    with (
        observer(other) as seen_there,
        stack(tmp_path, "isvc-neighbour", ["distributed"], ROS_DOMAIN_ID=str(other)) as neighbour,
    ):
        neighbour.run("up", "--detach")
        neighbour.wait_healthy("device", "sim")
        seen.wait_moving(one)
        assert seen_there.counts()[0] == 0
        assert seen_there.recording.read(lambda r: r.card) is None, "the neighbour sees this stack's engine"
