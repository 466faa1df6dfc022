"""Who a device is: the same after a restart, never two at a time, and its old session ends at once."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_service.nodes.device_identity import DeviceIdentity
from inference_service.nodes.engine_sessions import SessionTable

LOGGER = logging.getLogger("device")
NODE = "/left_arm/act_inference_node_of_test"


def claim(node: str = NODE, wanted: str = "", root: Path = Path("/")) -> str:
    """The name of a device that comes and goes."""
    identity = DeviceIdentity(node, wanted, LOGGER, root)
    identity.close()
    identity.close()
    return identity.device_id


@pytest.fixture
def alive() -> Iterator[list[DeviceIdentity]]:
    devices: list[DeviceIdentity] = []
    yield devices
    for device in devices:
        device.close()


def test_a_restart_keeps_the_name_and_ends_the_session_before_at_once() -> None:
    table = SessionTable(lambda _: None)
    table.note("before", claim())
    table.note("after", claim())
    assert table.take_ended() == ["before"]


def test_devices_of_a_machine_never_have_the_same_name(alive: list[DeviceIdentity]) -> None:
    alive += [DeviceIdentity(NODE, "", LOGGER) for _ in range(3)]
    names = [device.device_id for device in alive]
    assert names == [names[0], f"{names[0]}.2", f"{names[0]}.3"]
    alive.pop(1).close()
    assert claim() == names[1]
    assert claim("/right_arm/act_inference_node_of_test") not in names


def test_a_process_that_was_killed_lets_its_name_go() -> None:
    words = (
        "import logging, os, signal, sys; from inference_service.nodes.device_identity import DeviceIdentity;"
        "print(DeviceIdentity(sys.argv[1], '', logging.getLogger()).device_id, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", words, NODE], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == claim() and run.returncode == -9


def test_the_machine_is_part_of_it(tmp_path: Path) -> None:
    bare = claim(root=tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123\n")
    named = claim(root=tmp_path)
    for card, address in (("docker0", "02:00"), ("eth0", "aa:bb"), ("wlan0", "cc:dd")):
        (tmp_path / "sys/class/net" / card).mkdir(parents=True)
        (tmp_path / "sys/class/net" / card / "address").write_text(f"{address}\n")
    assert claim(root=tmp_path) == named, "virtual cards come and go"
    (tmp_path / "sys/class/net/eth0/device").mkdir()
    wired = claim(root=tmp_path)
    (tmp_path / "sys/class/net/wlan0/device").mkdir()
    assert claim(root=tmp_path) == wired != named != bare


def test_a_chosen_name_is_taken(alive: list[DeviceIdentity], caplog: pytest.LogCaptureFixture) -> None:
    assert claim(wanted="bench-arm") == "bench-arm"
    alive.append(DeviceIdentity(NODE, "bench-arm", LOGGER))
    with caplog.at_level(logging.WARNING):
        assert claim(wanted="bench-arm") == "bench-arm.2"
    assert "bench-arm is in use on this machine" in caplog.text
    for bad in ("two words", "ä", "x" * 97):
        with pytest.raises(ValueError, match="device_id"):
            claim(wanted=bad)
