"""The start-up line of a distributed device: what its requests cost, beside what the interface carries."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from inference_service.core.policy_config import PolicyConfig
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.device_budget import Interface, budget, dds_interfaces, history_line
from inference_service.nodes.device_encodings import Encodings
from inference_service.nodes.device_history import LookBack
from robot_config import load_robot_config
from robot_config.schema import ExecutorConfig
from tests.nodes.harness import POLICY, ROBOT

TOP = "observation.images.top"
EXECUTOR = ExecutorConfig(watermark_threshold=40, control_frequency=20.0)


@pytest.fixture
def config() -> PolicyConfig:
    return PolicyFolder.load(POLICY).config


def encodings(**wanted: str) -> Encodings:
    return Encodings(wanted, logging.getLogger("device"))


def test_two_cameras_of_96x128_at_two_requests_a_second(config: PolicyConfig) -> None:
    cost = budget(config, encodings(), EXECUTOR, early_resize=False)
    assert cost.request_bytes == 2 * 96 * 128 * 3 + 6 * 4
    assert cost.requests_s == 2.0
    line = cost.line([Interface("eth0", 100.0)])
    assert line == (
        "Wire budget: top u8 36.9 kB + wrist u8 36.9 kB + other 0.024 kB = 73.8 kB a request, x 2 requests/s = "
        "1.18 Mbit/s over eth0 (100 Mbit/s)"
    )
    assert cost.excess([Interface("eth0", 100.0), Interface("lo", None)]) is None


def test_the_encoding_counts(config: PolicyConfig) -> None:
    floats = budget(config, Encodings({"default": "f32", TOP: "jpeg:90"}, logging.getLogger()), EXECUTOR, False)
    assert floats.pictures[TOP] == ("jpeg:90", pytest.approx(0.1 * 96 * 128 * 3))
    assert floats.pictures["observation.images.wrist"] == ("f32", 4 * 96 * 128 * 3)


def test_what_the_model_shrinks_counts_as_small(config: PolicyConfig) -> None:
    pi0 = replace(config, type="pi0", raw={"image_resolution": [48, 48]})
    assert budget(pi0, encodings(), EXECUTOR, early_resize=True).pictures[TOP] == ("u8", 48 * 48 * 3)
    assert budget(pi0, encodings(), EXECUTOR, early_resize=False).pictures[TOP] == ("u8", 96 * 128 * 3)


def test_a_policy_that_looks_back_sends_and_keeps_more(config: PolicyConfig) -> None:
    looking = replace(config, n_obs_steps=3)
    cost = budget(looking, encodings(), EXECUTOR, early_resize=False)
    assert cost.request_bytes == 3 * (2 * 96 * 128 * 3 + 6 * 4)
    assert "wrist u8 36.9 kB + other 0.024 kB) x 3 observations = 221 kB a request" in cost.line([])
    specs = load_robot_config(ROBOT).contract.select(config.input_features)
    line = history_line(looking, LookBack(2, 50_000_000), specs)
    assert line == (
        "Looks back on 2 observations, 50 ms apart: the last 0.35 s of each stream are kept, 12.9 MB of pictures where "
        "each camera brings 20 a second"
    )
    assert history_line(config, LookBack(0, 50_000_000), specs) is None


def test_an_interface_that_is_too_slow_is_named_with_what_helps(config: PolicyConfig) -> None:
    eager = ExecutorConfig(watermark_threshold=50, control_frequency=30.0)
    cost = budget(config, encodings(), eager, early_resize=False)
    problem = cost.excess([Interface("eth0", 10.0)])
    assert problem is not None
    assert "need 17.7 Mbit/s and eth0 carries 10: one request takes 59 ms" in problem
    assert "inference.encodings" in problem


def make_interface(root: Path, name: str, speed: str | None, state: str = "up") -> None:
    (root / name).mkdir()
    (root / name / "operstate").write_text(f"{state}\n")
    if speed is not None:
        (root / name / "speed").write_text(f"{speed}\n")


def test_the_interfaces_are_those_that_dds_uses(tmp_path: Path) -> None:
    make_interface(tmp_path, "lo", None)
    make_interface(tmp_path, "eth0", "1000")
    make_interface(tmp_path, "wlan0", "-1")
    make_interface(tmp_path, "eth1", "100", "down")
    xml = '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="true"/></Interfaces>'
    assert dds_interfaces({"CYCLONEDDS_URI": xml}, tmp_path) == [Interface("lo", None)]
    file = tmp_path / "cyclone.xml"
    file.write_text(xml.replace("lo", "eth0"))
    assert dds_interfaces({"CYCLONEDDS_URI": f"file://{file}"}, tmp_path) == [Interface("eth0", 1000.0)]
    up = [Interface("eth0", 1000.0), Interface("wlan0", None)]
    auto = '<NetworkInterface autodetermine="true"/>'
    assert dds_interfaces({"CYCLONEDDS_URI": auto}, tmp_path) == up
    assert dds_interfaces({}, tmp_path) == up
