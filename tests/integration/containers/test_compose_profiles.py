"""Each profile from a copied ``.env.example``: healthy, the arm moves, everything ends with 0."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stack_rig import Stack, observer, stack, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

_MB = 1_000_000


def _resident_mb(container: object) -> float:
    memory = container.stats(stream=False)["memory_stats"]  # type: ignore[attr-defined]
    return float(memory["usage"] - memory["stats"].get("inactive_file", 0)) / _MB


SHARED = b"Pictures go to the engine through shared memory"


def _in_shared_memory(one: Stack, service: str) -> set[str]:
    """Files of the service's /dev/shm, as its own user sees them."""
    listed = one.container(service).exec_run(["ls", "/dev/shm"])
    assert listed.exit_code == 0, listed.output
    return set(listed.output.decode().split())


def test_cloud_local(tmp_path: Path, domain: int, measured: Callable[[str], None]) -> None:
    with (
        observer(domain) as seen,
        stack(tmp_path, "isvc-local", ["cloud_local"], ROS_DOMAIN_ID=str(domain)) as one,
    ):
        started = time.monotonic()
        one.run("up", "--detach")
        seen.wait_moving(one)
        first = seen.recording.read(lambda r: r.first_command_at)
        assert first is not None
        measured(f"cloud_local, from up to the first action: {first - started:.1f} s")
        one.wait_healthy("device", "engine", "sim")
        resident = _resident_mb(one.container("device"))
        measured(f"device container, resident: {resident:.0f} MB")
        assert resident <= 150
        assert seen.broken() == {}
        assert SHARED in one.container("device").logs()
        here = _in_shared_memory(one, "device")
        assert here == _in_shared_memory(one, "engine")
        assert len(here) == 2, "the engine's secret and the device's pictures"
        assert not here & {path.name for path in Path("/dev/shm").iterdir()}, "the host's own is not theirs"
        assert one.stop_all() == {"device": 0, "engine": 0, "sim": 0, "host-check": 0}


def test_monolithic(tmp_path: Path, domain: int) -> None:
    with observer(domain) as seen, stack(tmp_path, "isvc-mono", ["monolithic"], ROS_DOMAIN_ID=str(domain)) as one:
        one.run("up", "--detach")
        seen.wait_moving(one)
        one.wait_healthy("monolithic", "sim")
        assert seen.recording.read(lambda r: r.card) is None, "monolithic: no engine announces itself"
        assert seen.broken() == {}
        assert one.stop_all() == {"monolithic": 0, "sim": 0, "host-check": 0}


def test_distributed_and_its_engine_started_apart(tmp_path: Path, domain: int) -> None:
    """The two profiles of two machines, as two projects; the robot's comes first and waits without failing."""
    settings = {"ROS_DOMAIN_ID": str(domain)}
    with (
        observer(domain) as seen,
        stack(tmp_path, "isvc-robot", ["distributed"], None, **settings) as robot,
        stack(tmp_path, "isvc-engine", ["engine"], None, **settings, USE_SIM="0") as engine,
    ):
        robot.run("up", "--detach")
        robot.wait_healthy("device", "sim")
        assert seen.counts()[0] == 0, "no engine yet"
        engine.run("up", "--detach", "--wait", "engine")
        seen.wait_moving(robot)
        assert SHARED not in robot.container("device").logs(), "two projects are two machines"
        assert seen.broken() == {}
        assert engine.stop_all() == {"engine": 0, "host-check": 0}
        assert robot.stop_all() == {"device": 0, "sim": 0}


def test_a_robot_without_the_policy_has_it_from_its_engine(tmp_path: Path, domain: int) -> None:
    """Nothing is mounted there; it waits, unhealthy, says for what, and moves once an engine is there."""
    settings = {"ROS_DOMAIN_ID": str(domain)}
    fetching = {**settings, "POLICY_FROM": "engine", "MODEL_DIR": "/nowhere"}
    with (
        observer(domain) as seen,
        stack(tmp_path, "isvc-fetching", ["distributed"], None, **fetching) as robot,
        stack(tmp_path, "isvc-giving", ["engine"], None, **settings, USE_SIM="0") as engine,
    ):
        robot.run("up", "--detach")
        robot.wait_healthy("sim")
        device = robot.container("device")
        assert {mount["Destination"] for mount in device.attrs["Mounts"]} == {"/robot_config", "/dev/shm"}
        waiting = b"no engine offers them; start pure_inference, or give a policy directory"
        until(
            lambda: waiting in device.exec_run(["inference-service", "health"]).output,
            f"the device says what it waits for\n{robot.logs()}",
        )
        assert robot.health("device") != "healthy"
        engine.run("up", "--detach", "--wait", "engine")
        seen.wait_moving(robot)
        robot.wait_healthy("device")
        assert b"Policy files fetched" in device.logs()
        assert seen.broken() == {}
        assert engine.stop_all() == {"engine": 0, "host-check": 0}
        assert robot.stop_all() == {"device": 0, "sim": 0}
