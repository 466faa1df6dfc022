"""The environment variables become a Cyclone configuration that Cyclone takes, or an error that says what to do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from inference_service.core.errors import TransportError
from inference_service.transport.dds import config
from inference_service.transport.dds.config import load_config

ROOT = Path(__file__).parents[2]
NAMESPACE = "{https://cdds.io/config}"


def _domain(**environment: str) -> ElementTree.Element:
    domain = ElementTree.fromstring(load_config(environment).uri).find(f"{NAMESPACE}Domain")
    assert domain is not None
    return domain


def _text(domain: ElementTree.Element, path: str) -> str | None:
    return domain.findtext("/".join(NAMESPACE + part for part in path.split("/")))


def test_without_settings_it_is_loopback_with_multicast_and_large_datagrams() -> None:
    domain = _domain()
    (interface,) = domain.iter(f"{NAMESPACE}NetworkInterface")
    assert interface.attrib == {"name": "lo", "multicast": "true"}
    (buffer,) = domain.iter(f"{NAMESPACE}SocketReceiveBufferSize")
    assert buffer.attrib == {"min": "default", "max": "32MB"}
    assert _text(domain, "General/MaxMessageSize") == "65500B"
    assert _text(domain, "General/AllowMulticast") is None
    assert _text(domain, "Discovery/MaxAutoParticipantIndex") == "120"
    assert load_config({}).domain_id == 0


def test_what_was_lost_is_asked_for_within_a_control_tick() -> None:
    """With Cyclone's own 100 ms each, one lost packet would hold the arm."""
    assert _text(_domain(), "Internal/HeartbeatInterval") == "10ms"
    assert _text(_domain(), "Internal/NackDelay") == "10ms"


def test_peers_and_addresses() -> None:
    domain = _domain(DDS_INTERFACE="127.0.0.1", DDS_PEERS="10.0.0.1; host-2,10.0.0.3", DDS_MULTICAST="false")
    (interface,) = domain.iter(f"{NAMESPACE}NetworkInterface")
    assert interface.attrib == {"address": "127.0.0.1"}
    assert [peer.get("address") for peer in domain.iter(f"{NAMESPACE}Peer")] == ["10.0.0.1", "host-2", "10.0.0.3"]
    assert _text(domain, "General/AllowMulticast") == "false"


def test_several_interfaces_and_auto() -> None:
    assert [one.get("autodetermine") for one in _domain(DDS_INTERFACE="auto").iter(f"{NAMESPACE}NetworkInterface")] == [
        "true"
    ]
    names = [one.get("name") for one in _domain(DDS_INTERFACE="lo, lo").iter(f"{NAMESPACE}NetworkInterface")]
    assert names == ["lo", "lo"]


def test_the_users_own_configuration_wins_untouched() -> None:
    loaded = load_config({"CYCLONEDDS_URI": "file:///etc/mine.xml", "DDS_INTERFACE": "nonsense", "ROS_DOMAIN_ID": "7"})
    assert (loaded.uri, loaded.domain_id) == ("file:///etc/mine.xml", 7)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ROS_DOMAIN_ID", "233", "0 to 232"),
        ("ROS_DOMAIN_ID", "-1", "0 to 232"),
        ("ROS_DOMAIN_ID", "four", "'four'"),
        ("DDS_INTERFACE", "eth9", r"'eth9'.*no such network interface.*\blo\b"),
        ("DDS_MULTICAST", "maybe", "auto, true or false"),
        ("DDS_MULTICAST", "false", "DDS_PEERS"),
        ("DDS_MAX_MESSAGE_SIZE", "65500", "unit"),
        ("DDS_RECEIVE_BUFFER", "big", "unit"),
        ("DDS_GID_SIZE", "20", "16"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(key: str, value: str, words: str) -> None:
    with pytest.raises(TransportError, match=f"(?s){key}.*{words}|{words}.*{key}"):
        load_config({key: value})


def test_small_kernel_buffers_are_told_with_the_line_to_paste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = tmp_path / "rmem_max"
    monkeypatch.setattr(config, "_RMEM_MAX", limit)
    for value, told in (("212992", True), ("33554432", False), (None, False)):
        limit.write_text(value) if value else limit.unlink()
        config._warn_about_buffers.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dds"):
            config._warn_about_buffers()
        assert ("sysctl -w net.core.rmem_max=33554432" in caplog.text) is told


@pytest.mark.parametrize(
    "environment",
    [{}, {"DDS_PEERS": "127.0.0.1", "DDS_MULTICAST": "false", "DDS_MAX_MESSAGE_SIZE": "1400B"}],
    ids=["default", "peers"],
)
def test_cyclone_takes_what_is_written(environment: dict[str, str], domain_id: int) -> None:
    clean = {key: value for key, value in os.environ.items() if key != "CYCLONEDDS_URI"}
    code = "from inference_service.transport import create_node; create_node('node').close(); print('joined')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "joined\n", done.stderr


def test_a_configuration_that_cyclone_refuses_is_an_error_with_a_lead(domain_id: int) -> None:
    from inference_service.transport import create_node

    bad = "<CycloneDDS><Domain id='any'><General><Nonsense>1</Nonsense></General></Domain></CycloneDDS>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLONEDDS_URI", bad)
        with pytest.raises(TransportError, match="CYCLONEDDS_URI"):
            create_node("node")
