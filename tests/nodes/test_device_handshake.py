"""The same policy on both sides, and a robot that fits it: refused before the first action, with both lists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_service.core.errors import PolicyFolderError, PolicyMismatch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.small_files import small_files
from inference_service.nodes.device_handshake import Handshake
from inference_service.nodes.device_setup import DeviceSetup
from inference_service.wire.card import EngineCard, EngineState
from robot_config import ContractError, load_robot_config
from tests.nodes.harness import POLICY, ROBOT

TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder() -> PolicyFolder:
    return PolicyFolder.load(POLICY)


@pytest.fixture
def handshake(folder: PolicyFolder) -> Handshake:
    return Handshake(folder, 20.0, "arm.yaml:7: path", "arm.yaml:20: control_frequency")


@pytest.fixture
def card(folder: PolicyFolder) -> EngineCard:
    config = folder.config
    return EngineCard(
        "engine-1",
        EngineState.READY,
        policy_type=config.type,
        chunk_size=config.chunk_size,
        action_dim=config.action_dim,
        input_features={name: feature.shape for name, feature in config.input_features.items()},
        fingerprint=folder.fingerprint,
    )


def lines(problem: str | None) -> list[str]:
    assert problem is not None
    return [" ".join(line.split()) for line in problem.splitlines()]


def test_the_same_policy_is_no_problem(handshake: Handshake, card: EngineCard) -> None:
    assert handshake.problem(card) is None
    assert handshake.problem(replace(card, fps=20.0)) is None


def test_other_weights_of_equal_shape_are_told_by_the_fingerprint(handshake: Handshake, card: EngineCard) -> None:
    found = lines(handshake.problem(replace(card, fingerprint="feedbeef")))
    assert found[0] == "device and engine hold different policies (engine-1):"
    assert f"≠ fingerprint {handshake.fingerprint} feedbeef" in found
    assert f"{TOP} 3x96x128 3x96x128" in found
    assert "their inputs are alike: statistics, processor steps or another setting of config.json differ" in found
    assert found[-1] == "arm.yaml:7: path: use the directory that the engine loaded, or engine://"


PICTURE = (3, 96, 128)


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ({STATE: (6,), TOP: PICTURE}, [f"≠ {WRIST} 3x96x128 -- none --"]),
        (
            {STATE: (6,), TOP: PICTURE, WRIST: PICTURE, "observation.images.side": PICTURE},
            ["≠ observation.images.side -- none -- 3x96x128"],
        ),
        (
            {STATE: (6,), WRIST: PICTURE, TOP: PICTURE},
            [f"≠ {TOP} 3x96x128, input 2 3x96x128, input 3", f"≠ {WRIST} 3x96x128, input 3 3x96x128, input 2"],
        ),
        ({STATE: (6,), TOP: (3, 224, 224), WRIST: PICTURE}, [f"≠ {TOP} 3x96x128 3x224x224"]),
        ({STATE: (7,), TOP: PICTURE, WRIST: PICTURE}, [f"≠ {STATE} 6 7"]),
    ],
    ids=["camera missing", "camera extra", "another order", "another picture", "another state"],
)
def test_other_inputs_stand_side_by_side(
    handshake: Handshake, card: EngineCard, inputs: dict[str, tuple[int, ...]], rows: list[str]
) -> None:
    found = lines(handshake.problem(replace(card, input_features=inputs)))
    assert [row for row in found if row.startswith("≠")] == rows
    assert found[-1].startswith("arm.yaml:7: path")


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"chunk_size": 100}, "≠ chunk_size 50 100"),
        ({"action_dim": 7}, "≠ action 6 7"),
        ({"policy_type": "pi0"}, "≠ policy_type act pi0"),
    ],
)
def test_another_output_is_refused(handshake: Handshake, card: EngineCard, change: dict[str, Any], row: str) -> None:
    assert row in lines(handshake.problem(replace(card, **change)))


def test_another_rate_names_the_line_of_the_control_frequency(handshake: Handshake, card: EngineCard) -> None:
    found = lines(handshake.problem(replace(card, fps=30.0)))
    assert "≠ actions a second 20 30" in found
    assert found[-1].startswith("arm.yaml:20: control_frequency: write 30: one action of the policy")


# -- the robot's file against the policy, on the device alone ----------------------------------------------------------


@pytest.fixture
def changed(tmp_path: Path) -> Write:
    def write(*changes: tuple[str, str]) -> Path:
        text = ROBOT.read_text(encoding="utf-8").replace("policies/so101_act_demo", str(POLICY))
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "arm.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def refusal(folder: PolicyFolder, path: Path) -> str:
    with pytest.raises((PolicyMismatch, ContractError)) as caught:
        DeviceSetup.check(folder, load_robot_config(path), "")
    return str(caught.value)


def test_the_demo_robot_fits_its_policy(folder: PolicyFolder, changed: Write) -> None:
    setup = DeviceSetup.check(folder, load_robot_config(changed()), "")
    assert [spec.key for spec in setup.specs] == list(folder.config.input_features)
    assert setup.handshake().policy_place.endswith("arm.yaml:19: path")


def test_a_state_of_another_length(folder: PolicyFolder, changed: Write) -> None:
    path = changed((", position.6]", "]"))
    found = lines(refusal(folder, path))
    assert f"≠ {STATE} 6 values 5 values" in found
    assert found[-1].startswith(f"{path}:{line_of(path, 'key: observation.state')}: {STATE}: give the 6 values")


def test_a_camera_that_gives_numbers(folder: PolicyFolder, changed: Write) -> None:
    path = changed(
        (
            "topic: /camera/wrist/image_raw\n        type: sensor_msgs/msg/Image\n        peripheral: wrist\n",
            "topic: /wrist\n        type: std_msgs/msg/Float32MultiArray\n",
        )
    )
    assert any(line.startswith(f"≠ {WRIST} picture ") for line in lines(refusal(folder, path)))


def test_actions_of_another_length(folder: PolicyFolder, changed: Write) -> None:
    path = changed(("names: [action.5]", "names: [action.5, action.6]"))
    found = lines(refusal(folder, path))
    assert "≠ action 6 values 7 values" in found
    assert found[-1].startswith(f"{path}:{line_of(path, '    actions:')}: name as many action.N")


def test_another_policy_type_than_the_file_says(folder: PolicyFolder, changed: Write) -> None:
    path = changed(("policy_type: act", "policy_type: pi0"))
    found = lines(refusal(folder, path))
    assert "≠ policy_type act pi0" in found
    assert f"{path}:{line_of(path, 'policy_type:')}: write policy_type: act, or give another path" in found


def test_the_type_of_a_model_that_the_launch_replaced_does_not_count(folder: PolicyFolder, changed: Write) -> None:
    path = changed((f"path: {POLICY}", "path: /somewhere/else"), ("policy_type: act", "policy_type: pi0"))
    DeviceSetup.check(folder, load_robot_config(path), "")


def test_a_camera_that_the_robot_does_not_have(folder: PolicyFolder, changed: Write) -> None:
    path = changed(("key: observation.images.wrist", "key: observation.images.rist"))
    assert "change `key: observation.images.rist` to `key: observation.images.wrist`" in refusal(folder, path)


@pytest.mark.parametrize("training", [{"dataset": {"fps": 30}}, {"env": {"fps": 30.0}, "dataset": {"repo_id": "x"}}])
def test_another_rate_than_the_trainings(folder: PolicyFolder, changed: Write, tmp_path: Path, training: Any) -> None:
    copy = shutil.copytree(folder.path, tmp_path / "policy")
    (copy / "train_config.json").write_text(json.dumps(training))
    path = changed()
    found = lines(refusal(PolicyFolder.load(copy), path))
    assert "≠ actions a second 30 20" in found
    assert found[-1].startswith(f"{path}:{line_of(path, 'control_frequency:')}: control_frequency: write 30")


@pytest.mark.parametrize("text", ['{"env": {"fps": 0}}', '{"dataset": {"fps": "fast"}}', "{"])
def test_a_training_configuration_that_cannot_be_read(folder: PolicyFolder, tmp_path: Path, text: str) -> None:
    copy = shutil.copytree(folder.path, tmp_path / "policy")
    (copy / "train_config.json").write_text(text)
    with pytest.raises(PolicyFolderError, match=r"train_config\.json"):
        _ = PolicyFolder.load(copy).fps


def test_a_rate_in_the_policys_own_configuration_goes_first(folder: PolicyFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder.path, tmp_path / "policy")
    (copy / "train_config.json").write_text('{"env": {"fps": 30}}')
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"fps": 15}))
    assert PolicyFolder.load(copy).fps == 15.0
    assert "train_config.json" in small_files(PolicyFolder.load(copy)), "a device that fetches its policy knows too"
