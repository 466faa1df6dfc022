"""Robot and engine on two machines: network namespaces of their own, joined by veth and a bridge, nothing on lo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from stack_rig import Stack, client, image, stack, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300), pytest.mark.usefixtures("images")]

HERE = Path(__file__).parent
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
FILES = ["compose.yaml", str(HERE / "machines.yaml")]


@pytest.fixture
def cable() -> Iterator[str]:
    """A bridge that DDS does not leave: multicast is not routed, and nothing is translated to other addresses.

    Docker's `internal` networks would drop the multicast itself.
    """
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.213.77.0/24")])
    network = client().networks.create("isvc-cable", driver="bridge", ipam=pool, options={_MASQUERADE: "false"})
    try:
        yield "isvc-cable"
    finally:
        network.remove()


def _seen_on(cable: str, domain: int, seconds: float = 4.0) -> dict[str, int]:
    """What a third machine on the cable sees."""
    output = client().containers.run(
        image("device"),
        ["/watch.py", str(seconds)],
        entrypoint="/opt/venv/bin/python",
        network=cable,
        environment={"ROS_DOMAIN_ID": str(domain), "DDS_INTERFACE": "eth0"},
        volumes={str(HERE / "watch.py"): {"bind": "/watch.py", "mode": "ro"}},
        remove=True,
    )
    seen: dict[str, int] = json.loads(output.splitlines()[-1])
    return seen


def _moves(cable: str, domain: int) -> bool:
    seen = _seen_on(cable, domain)
    return seen["chunks"] >= 2 and seen["commands"] >= 20


@contextmanager
def _unplugged(machine: Stack, service: str) -> Iterator[None]:
    """The container's end of the cable dead: its interface stays, nothing passes. Needs root, as the engine does."""
    index = machine.container(service).exec_run(["cat", "/sys/class/net/eth0/iflink"]).output.decode().strip()
    veth = next(p.parent.name for p in Path("/sys/class/net").glob("*/ifindex") if p.read_text().strip() == index)
    subprocess.run(["ip", "link", "set", veth, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", veth, "up"], check=True)


def test_two_machines(tmp_path: Path, domain: int, cable: str) -> None:
    """With another domain on one side nothing crosses; with the same one the arm moves; lost and found again."""
    common = {"CABLE": cable}
    with (
        stack(tmp_path, "isvc-robot-machine", ["distributed"], FILES, **common, ROS_DOMAIN_ID=str(domain)) as robot,
        stack(
            tmp_path, "isvc-engine-elsewhere", ["engine"], FILES, **common, ROS_DOMAIN_ID="231", USE_SIM="0"
        ) as elsewhere,
        stack(
            tmp_path, "isvc-engine-machine", ["engine"], FILES, **common, ROS_DOMAIN_ID=str(domain), USE_SIM="0"
        ) as engine,
    ):
        robot.run("up", "--detach")
        elsewhere.run("up", "--detach", "engine")
        robot.wait_healthy("device", "sim")
        elsewhere.wait_healthy("engine")
        assert _seen_on(cable, domain)["chunks"] == 0
        assert "First inference completed" not in elsewhere.logs("engine")

        engine.run("up", "--detach", "engine")
        until(lambda: _moves(cable, domain), f"the arm moves\n{robot.logs()}\n{engine.logs()}")

        with _unplugged(engine, "engine"):
            until(lambda: _seen_on(cable, domain, 2.0)["chunks"] == 0, "chunks stop without the cable")
        until(lambda: _moves(cable, domain), f"the arm moves again\n{robot.logs()}\n{engine.logs()}")
        assert robot.stop_all() == {"device": 0, "sim": 0}
        assert engine.stop_all() == {"engine": 0, "host-check": 0}


def test_peers_where_there_is_no_multicast(tmp_path: Path, domain: int, cable: str) -> None:
    """DDS_MULTICAST=false and the other machines named."""
    addresses = {"DEVICE_ADDRESS": "10.213.77.11", "ENGINE_ADDRESS": "10.213.77.12", "SIM_ADDRESS": "10.213.77.13"}
    settings = {
        "CABLE": cable,
        "ROS_DOMAIN_ID": str(domain),
        "DDS_MULTICAST": "false",
        "DDS_PEERS": ",".join(addresses.values()),
        **addresses,
    }
    with stack(tmp_path, "isvc-peers", ["cloud_local"], FILES, **settings) as one:
        one.run("up", "--detach")
        one.wait_healthy("device", "engine", "sim")
        until(
            lambda: "First inference complete (distributed)" in one.logs("device"),
            f"an inference without multicast\n{one.logs()}",
        )
