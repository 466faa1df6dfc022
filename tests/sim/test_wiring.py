"""A robot's file decides the topics; what the simulated world lacks is named."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mujoco")

from inference_service.sim.wiring import Wiring, WiringError, contract_wiring, default_wiring
from inference_service.sim.world import SimWorld
from robot_config import load_robot_config

ROBOT = """
robot:
  name: mine
  joints: {{arm: ["3", "1"], gripper: ["6"]}}
  peripherals:
    - {{type: camera, name: top, width: 320, height: 240, fps: 5}}
  contract:
    rate_hz: 20
    observations:
      - {{key: observation.images.front, peripheral: top, topic: /eye, type: sensor_msgs/msg/CompressedImage}}
      - {{key: observation.images.{camera}, image: {{resize: [96, 128]}}}}
      - {{key: observation.state, topic: /state, selector: {{names: [position.3, position.1, position.6]}}}}
    actions:
      - {{selector: {{names: [action.2, action.0]}}, publish: {{topic: /hand}}}}
      - {{selector: {{names: [action.1]}}, publish: {{topic: /elbow}}}}
"""


def wiring_of(tmp_path: Path, camera: str = "wrist") -> Wiring:
    file = tmp_path / "mine.yaml"
    text = ROBOT.format(camera=camera)
    file.write_text(text.replace(f"images.{camera},", f"images.{camera}, topic: /other,"))
    return contract_wiring(load_robot_config(file))


def test_the_demo_robot_and_the_defaults_agree() -> None:
    shipped, default = contract_wiring(load_robot_config("so101_sim")), default_wiring()
    assert shipped.commands == default.commands
    assert shipped.state_topic == default.state_topic
    assert shipped.joints == default.joints
    assert [(c.name, c.topic, c.size) for c in shipped.cameras] == [(c.name, c.topic, c.size) for c in default.cameras]
    shipped.check(SimWorld().model)


def test_topics_sizes_and_joints_come_from_the_contract(tmp_path: Path) -> None:
    wiring = wiring_of(tmp_path)
    assert wiring.state_topic == "/state"
    assert wiring.joints == ("3", "1", "6")
    top, wrist = wiring.cameras
    assert (top.name, top.topic, top.compressed, top.size, top.fps) == ("top", "/eye", True, (240, 320), 5.0)
    assert (wrist.name, wrist.topic, wrist.compressed, wrist.size) == ("wrist", "/other", False, (96, 128))
    # Element i of an action moves joint i of the robot, whatever topic it goes to.
    assert {c.topic: c.joints for c in wiring.commands} == {"/hand": ("6", "3"), "/elbow": ("1",)}


def test_a_camera_that_the_world_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match=r"/other.*'overhead'.*top, scene, wrist"):
        wiring_of(tmp_path, "overhead").check(SimWorld().model)


def test_a_joint_that_the_arm_lacks_is_named() -> None:
    wiring = default_wiring()
    strange = Wiring(wiring.state_topic, ("1", "elbow"), (), ())
    with pytest.raises(WiringError, match=r"'elbow'.*1, 2, 3, 4, 5, 6"):
        strange.check(SimWorld().model)
