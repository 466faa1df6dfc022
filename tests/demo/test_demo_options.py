"""The command line, and the isolation that a run starts with."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from inference_service.core.errors import TransportError
from inference_service.demo import isolation
from inference_service.demo.options import DemoOptions, parse_options


def test_options_become_a_run() -> None:
    words = "--mode monolithic --device cuda:1 --seconds 2.5 --headless --out x --domain 7 --robot r --policy p"
    assert parse_options(words.split()) == DemoOptions(
        "monolithic", "cuda:1", 2.5, Path("p"), "r", headless=True, out=Path("x"), domain=7
    )


@pytest.mark.parametrize(("device", "needs"), [("auto", False), ("onnx", False), ("cpu", True), ("cuda:0", True)])
def test_only_torch_devices_need_lerobot(device: str, needs: bool) -> None:
    assert DemoOptions(device=device).needs_lerobot is needs


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--secods 3", "did you mean --seconds?"),
        ("--headles", "did you mean --headless?"),
        ("monolithic", "known: --help"),
        ("--seconds 0", "not a number of seconds greater than 0"),
        ("--seconds nan", "not a number of seconds greater than 0"),
        ("--domain 102", "ROS_DOMAIN_ID from 0 to 101"),
        ("--mode mono", "'distributed', 'monolithic'"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(words.split())
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_domain_in_use_is_passed_over() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        first = isolation.free_domain()
        other.bind(("", 7400 + 250 * first))
        assert isolation.domain_in_use(first)
        assert isolation.free_domain() != first
        with pytest.raises(TransportError, match="--domain"):
            isolation.free_domain([first])


def test_isolation_sets_aside_the_callers_network_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "file:///robot.xml")
    monkeypatch.setenv("DDS_INTERFACE", "eth0")
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    with isolation.isolated(9):
        assert "CYCLONEDDS_URI" not in os.environ
        assert os.environ["DDS_INTERFACE"] == "lo"
        assert os.environ["ROS_DOMAIN_ID"] == "9"
    assert os.environ["CYCLONEDDS_URI"] == "file:///robot.xml"
    assert os.environ["DDS_INTERFACE"] == "eth0"
    assert "ROS_DOMAIN_ID" not in os.environ
