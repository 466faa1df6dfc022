"""The demo's task: who is at the cube, who shows how to get there, and what is recorded of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from inference_service.core.resize import resize_bilinear
from inference_service.sim import demonstrations
from inference_service.sim.expert import demonstrate, reach, tips
from inference_service.sim.gl import missing_egl
from inference_service.sim.referee import Referee
from inference_service.sim.renderer import EglRenderer
from inference_service.sim.task import HOLD_S, TOLERANCE_M, reached, succeeded, tip_distance
from inference_service.sim.world import SimWorld

RATE_HZ = 20.0


def drive(world: SimWorld, seconds: float) -> list[float]:
    """The expert at the wheel; the tips' distance from the cube after each tick."""
    distances = []
    for tick in range(round(seconds * RATE_HZ)):
        if tick % 10 == 0:
            chunk = demonstrate(world.joint_positions[None], world.cube_top[None], 10, 1 / RATE_HZ)[0]
        world.set_targets(chunk[tick % 10])
        world.step(1 / RATE_HZ)
        distances.append(tip_distance(world))
    return distances


def test_the_expert_knows_where_the_tips_are_and_how_to_bring_them_somewhere() -> None:
    world = SimWorld(seed=1)
    np.testing.assert_allclose(tips(world.joint_positions[None])[0], world.tip_position, atol=1e-3)
    places = np.array([[0.2, 0.1, 0.05], [0.24, -0.1, 0.03], [0.21, 0.0, 0.1]])
    np.testing.assert_allclose(tips(reach(places)), places, atol=1e-9)
    assert np.isfinite(reach(np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]))).all(), "out of reach"


@pytest.mark.parametrize("seed", range(4))
def test_the_expert_comes_to_the_cube_from_home_and_from_another_cube_and_moves_neither(seed: int) -> None:
    world = SimWorld(seed=seed)
    for _ in range(2):
        before = world.cube_position
        assert succeeded(drive(world, 5.0), RATE_HZ)
        assert np.abs(world.cube_position - before)[:2].max() < 1e-3
        world.move_cube()


def test_success_is_the_whole_last_second_at_the_cube() -> None:
    near, far = TOLERANCE_M - 1e-6, TOLERANCE_M + 1e-6
    assert succeeded([far] * 40 + [near] * 20, RATE_HZ)
    assert not succeeded([near] * 59 + [far], RATE_HZ)
    assert not succeeded([near] * 40 + [far] + [near] * 19, RATE_HZ)
    with pytest.raises(ValueError, match="19 distances"):
        succeeded([near] * 19, RATE_HZ)


def test_the_tips_at_home_are_not_at_the_cube() -> None:
    assert not reached(SimWorld(seed=0))


def test_the_referee_moves_a_cube_that_was_reached_and_one_that_was_not_in_time() -> None:
    world = SimWorld(seed=2)
    referee = Referee(world, 2, move_after_s=3.0)
    first = world.cube_position
    referee.step(10.0)
    assert referee.score.cubes == 0, "nothing counts before the first command"
    referee.begin()
    drive(world, 3.0)
    assert reached(world)
    referee.step(HOLD_S / 2)
    assert referee.score.cubes == 0
    referee.step(HOLD_S / 2)
    assert (referee.score.reached, referee.score.cubes) == (1, 1)
    assert np.abs(world.cube_position - first).max() > 1e-3
    assert np.abs(world.joint_positions).max() > 0.1, "the arm stays where it is"
    referee.step(3.0)
    assert (referee.score.reached, referee.score.cubes) == (1, 2)


def test_the_referee_resets_with_the_next_seed_each_time() -> None:
    world = SimWorld(seed=5)
    referee = Referee(world, 5, reset_every_s=2.0)
    referee.begin()
    drive(world, 2.0)
    referee.step(2.0)
    assert (referee.score.seed, referee.score.elapsed_s) == (6, 0.0)
    np.testing.assert_array_equal(world.qpos, SimWorld(seed=6).qpos)


def test_recordings_repeat_and_what_they_show_is_right_wherever_the_arm_was_driven() -> None:
    if missing_egl():
        pytest.skip("needs OpenGL off screen")
    one, two = (demonstrations.record(1, 5, (48, 64), seed=3) for _ in range(2))
    assert one.top.shape == (24, 48, 64, 3) and one.top.dtype == np.uint8
    assert one.actions.shape == (24, 5, 6)
    for name in ("top", "wrist", "state", "actions", "cube", "cube_from_hand"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    tops = one.cube + np.array([0, 0, 0.0125])
    np.testing.assert_array_equal(one.actions, demonstrate(one.state, tops, 5, 1 / RATE_HZ))
    assert len(np.unique(one.cube[:, 0].round(3))) >= 2, "the cube moves once"


@pytest.mark.parametrize("camera", demonstrations.CAMERAS)
def test_a_picture_rendered_small_is_the_robots_picture_made_small(camera: str) -> None:
    if missing_egl():
        pytest.skip("needs OpenGL off screen")
    world = SimWorld(seed=4)
    pictures = []
    for size in ((480, 640), (96, 128)):
        renderer = EglRenderer(world.model, size)
        pictures.append(renderer.render(world.qpos, camera))
        renderer.close()
    differing = (resize_bilinear(pictures[0], 96, 128) != pictures[1]).any(2).mean()
    assert differing < 0.005, "no more than a pixel here and there on an edge"
