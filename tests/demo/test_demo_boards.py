"""Stand-ins of the boards in a demo: whatever policy it is about becomes their artifact, and broken rules are seen."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from inference_service.backends.compiled.sidecar import load_sidecar
from inference_service.core.errors import ModelLoadFailed
from inference_service.core.policy_folder import PolicyFolder
from inference_service.demo.boards import board_for
from inference_service.demo.options import DemoOptions

DEMO = Path(__file__).resolve().parents[2] / "policies" / "so101_act_demo"
DEVICES = ("ascend_om", "ascend_om_3403", "rknn")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Another policy than the robot's own."""
    path = tmp_path / "trained"
    shutil.copytree(DEMO, path, ignore=shutil.ignore_patterns("model.*"))
    (path / "model.onnx").write_bytes(b"graph")
    return path


@pytest.mark.parametrize("device", DEVICES)
def test_the_policy_becomes_the_artifact_of_a_board(device: str, policy: Path) -> None:
    before = dict(os.environ)
    with board_for(DemoOptions(device=device, policy=policy)) as board:
        made = board.options.policy
        assert made is not None and made.name == "trained" and board.options.device == device
        artifact = load_sidecar(PolicyFolder.load(made), device).artifacts["policy"].path
        assert artifact.read_bytes() == b"graph"
        assert "simulators" in os.environ["PYTHONPATH"] and board.broken_rules() == []
        journal = os.environ["ACL_SIM_JOURNAL"] if device == "ascend_om" else f"{os.environ['RKNN_SIM']}/journal.jsonl"
        Path(journal).write_text("rule 4: a thread without context\n")
        assert board.broken_rules() == ["rule 4: a thread without context"]
    assert dict(os.environ) == before and not made.exists()


def test_other_devices_and_policies_made_for_a_board_are_left_as_they_are(policy: Path) -> None:
    options = DemoOptions(device="onnx", policy=policy)
    with board_for(options) as board:
        assert board.options is options
    (policy / "config.om.json").write_text("{}")
    for device in ("ascend_om", "ascend_om_3403"):
        with board_for(replace(options, device=device)) as board:
            assert board.options.policy == policy


def test_without_a_graph_it_says_how_to_make_one(policy: Path) -> None:
    (policy / "model.onnx").unlink()
    with pytest.raises(ModelLoadFailed, match=r"python -m inference_service\.export .*trained"):
        with board_for(DemoOptions(device="rknn", policy=policy)):
            pass
