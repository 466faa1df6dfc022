"""The simulated arm moves as told, stays in its limits, and really meets the cube."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from inference_service.core.errors import BackendUnavailable, SafetyError
from inference_service.sim.world import CUBE_BEARING_RAD, CUBE_RADIUS_M, SimWorld, default_model_path

HOME = [0.0, -0.6, 0.9, 0.6, 0.0, 0.6]
HALF_CUBE = 0.0125


def reach(x: float, y: float, z: float, pitch: float = 1.35) -> list[float]:
    """Joints 1 to 4 that put the point between the fingers at (x, y, z), the hand ``pitch`` rad below level."""
    upper, fore, hand = 0.116, 0.135, 0.129
    wrist_r = math.hypot(x, y) - 0.028 - hand * math.cos(pitch)
    wrist_z = z - 0.116 + hand * math.sin(pitch)
    far = math.hypot(wrist_r, wrist_z)
    lift = math.atan2(wrist_r, wrist_z) - math.acos((upper**2 + far**2 - fore**2) / (2 * upper * far))
    fore_pitch = math.atan2(upper * math.cos(lift) - wrist_z, wrist_r - upper * math.sin(lift))
    return [math.atan2(y, x), lift, fore_pitch - lift, pitch - fore_pitch]


def move(world: SimWorld, joints: list[float], seconds: float) -> None:
    """Commands at 20 Hz along a straight line in joint space, then a moment to arrive."""
    start, ticks = world.targets, int(seconds * 20)
    for tick in range(1, ticks + 1):
        world.set_targets(start + (np.array(joints) - start) * tick / ticks)
        world.step(0.05)
    world.step(0.2)


def test_starts_at_home_above_the_table() -> None:
    world = SimWorld(seed=1)
    assert world.joint_names == ("1", "2", "3", "4", "5", "6")
    np.testing.assert_allclose(world.targets, HOME)
    np.testing.assert_allclose(world.joint_positions, HOME, atol=0.02)
    assert world.gripper_position[2] > 0.05
    assert world.time_s == 0.0


def test_same_seed_and_calls_give_the_same_world() -> None:
    def run(seed: int) -> np.ndarray:
        world = SimWorld(seed=seed)
        world.reset()
        for tick in range(40):
            world.set_targets(np.array(HOME) + 0.3 * math.sin(tick / 5))
            world.step(0.0137)
        return world.qpos

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_resets_put_the_cube_within_reach_each_time_elsewhere() -> None:
    world = SimWorld(seed=0)
    seen = set()
    for _ in range(8):
        world.reset()
        x, y, z = world.cube_position
        assert CUBE_RADIUS_M[0] - 0.005 < math.hypot(x, y) < CUBE_RADIUS_M[1] + 0.005
        assert CUBE_BEARING_RAD[0] - 0.02 < math.atan2(y, x) < CUBE_BEARING_RAD[1] + 0.02
        assert z == pytest.approx(HALF_CUBE, abs=0.001)
        seen.add(round(float(x), 4))
    assert len(seen) > 4
    world.reset(seed=5)
    first = world.cube_position
    world.reset(seed=5)
    np.testing.assert_array_equal(world.cube_position, first)


def test_tracks_a_moving_target_without_overshoot() -> None:
    world = SimWorld(seed=1)
    lag = []
    for tick in range(120):
        swing = np.sin(2 * math.pi * 0.25 * tick * 0.05 + np.arange(6))
        target = np.array(HOME) + np.array([0.5, 0.1, 0.1, 0.2, 0.5, 0.4]) * swing
        world.set_targets(target)
        world.step(0.05)
        lag.append(np.abs(world.joint_positions - target))
    assert np.max(lag[20:]) < 0.06

    for joint in range(6):
        world.reset(1)
        target = np.array(HOME)
        target[joint] += 0.3
        world.set_targets(target)
        path = []
        for _ in range(60):
            world.step(0.01)
            path.append(world.joint_positions[joint])
        assert abs(path[-1] - target[joint]) < 0.01, f"joint {joint + 1} does not arrive"
        assert max(path) < target[joint] + 0.01, f"joint {joint + 1} overshoots"
        assert np.abs(world.joint_velocities).max() < 0.05


def test_targets_are_clipped_to_the_joint_limits() -> None:
    world = SimWorld(seed=1)
    world.set_targets([9.0, 0.0, 0.0, 0.0, 9.0, 9.0])
    np.testing.assert_allclose(world.targets, [1.92, 0.0, 0.0, 0.0, 2.84, 1.75])
    world.step(3.0)
    assert np.all(world.joint_positions <= world.limits[:, 1] + 0.02)
    world.set_targets([-9.0], joints=["1"])
    world.step(3.0)
    assert world.joint_positions[0] == pytest.approx(-1.92, abs=0.02)
    assert world.targets[5] == pytest.approx(1.75), "joints that are not named keep their target"


@pytest.mark.parametrize(
    ("values", "joints", "says"),
    [
        ([math.nan, 0, 0, 0, 0, 0], None, "'1' is not finite"),
        ([0.1, math.inf], ["1", "6"], "'6' is not finite"),
        ([0.0] * 5, None, "5 targets for 6 joints"),
        ([[0.0] * 6], None, "6 targets"),
        ([0.0], ["7"], "no joint '7'"),
    ],
)
def test_refused_targets_change_nothing(values: list[float], joints: list[str] | None, says: str) -> None:
    world = SimWorld(seed=1)
    before = world.targets
    with pytest.raises(SafetyError, match=says):
        world.set_targets(values, joints)
    np.testing.assert_array_equal(world.targets, before)


def test_step_keeps_what_is_left_over() -> None:
    world = SimWorld(seed=1)
    for _ in range(1000):
        world.step(0.0013)
    assert world.time_s == pytest.approx(1.3, abs=0.0021)
    with pytest.raises(ValueError, match="finite"):
        world.step(math.nan)
    with pytest.raises(ValueError, match="negative"):
        world.step(-0.1)


def test_the_cube_falls_and_comes_to_rest_on_the_table() -> None:
    world = SimWorld(seed=1)
    world.place_cube(0.2, 0.15, z_m=0.10)
    world.step(1.5)
    assert world.cube_position[2] == pytest.approx(HALF_CUBE, abs=0.001)
    resting = world.cube_position
    world.step(1.0)
    np.testing.assert_allclose(world.cube_position, resting, atol=1e-4)


def test_the_arm_pushes_the_cube() -> None:
    world = SimWorld(seed=1)
    world.place_cube(0.21, 0.0)
    move(world, [*reach(0.21, 0.09, 0.02), 0.0, 0.0], 1.5)
    before = world.cube_position
    move(world, [*reach(0.21, -0.04, 0.02), 0.0, 0.0], 2.0)
    assert before[1] == pytest.approx(0.0, abs=0.002)
    assert world.cube_position[1] < -0.03


def test_the_gripper_lifts_and_carries_the_cube() -> None:
    world = SimWorld(seed=1)
    world.place_cube(0.20, 0.06, math.atan2(0.06, 0.20))
    open_jaw, closed_jaw = 1.0, 0.1
    move(world, [*reach(0.20, 0.06, 0.07), 0.0, open_jaw], 1.5)
    move(world, [*reach(0.20, 0.06, 0.016), 0.0, open_jaw], 1.0)
    move(world, [*reach(0.20, 0.06, 0.016), 0.0, closed_jaw], 1.0)
    move(world, [*reach(0.20, -0.10, 0.09), 0.0, closed_jaw], 2.0)
    np.testing.assert_allclose(world.cube_position, [0.20, -0.10, 0.09], atol=0.015)


def test_a_missing_or_unfit_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"nowhere\.xml"):
        SimWorld(tmp_path / "nowhere.xml")
    bare = tmp_path / "bare.xml"
    bare.write_text("<mujoco><worldbody/></mujoco>")
    with pytest.raises(BackendUnavailable, match=r"bare\.xml.*key named 'home'"):
        SimWorld(bare)
    broken = tmp_path / "broken.xml"
    broken.write_text("<mujoco><worldbody>")
    with pytest.raises(BackendUnavailable, match=r"broken\.xml"):
        SimWorld(broken)


def test_the_model_needs_no_other_files() -> None:
    text = default_model_path().read_text()
    assert "file=" not in text
