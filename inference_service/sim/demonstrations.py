"""Demonstrations for training: episodes of the simulated arm, driven by :mod:`inference_service.sim.expert`.

What drives the arm is disturbed, what is recorded as right is not: the states beside the way show how to come back
(as DART does: Laskey et al., "DART: Noise Injection for Robust Imitation Learning", 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import UInt8
from inference_service.sim.expert import demonstrate
from inference_service.sim.renderer import EglRenderer, Renderer
from inference_service.sim.simple_renderer import SimpleRenderer
from inference_service.sim.world import CUBE_BEARING_RAD, CUBE_RADIUS_M, SimWorld

Float64 = NDArray[np.float64]

RATE_HZ = 20.0
CAMERAS = ("top", "wrist")
EPISODE_TICKS = 120
"""6 s, in which the cube is moved once: the arm starts at home first, at the last cube then."""
_REPLAN_TICKS = 10
_FRAME_TICKS = 5
_JOINT_SPREAD = np.array([0.35, 0.2, 0.2, 0.2, 0.15, 0.15])
"""rad, of where an episode starts around home."""
_DISTURBANCE = np.array([0.0, 0.06, 0.15])
"""rad, by episode: how far the arm is driven from where it should go."""
_SIMPLE_SHARE = 0.25
"""Of the episodes, so many are drawn without OpenGL: the policy has to know both kinds of picture."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Moments of the episodes, one per row.

    ``top``, ``wrist``: (N, H, W, 3) uint8. ``state``: (N, 6) rad. ``actions``: (N, ticks, 6) rad, what to command at
    the next ticks of 1 / RATE_HZ seconds. ``cube``: (N, 3) metres, its centre; ``cube_from_hand``: (N, 3) metres.
    """

    top: UInt8
    wrist: UInt8
    state: Float64
    actions: Float64
    cube: Float64
    cube_from_hand: Float64


def record(episodes: int, ticks: int, size: tuple[int, int], seed: int) -> Frames:
    """Record ``episodes`` with ``ticks`` actions at each moment and pictures of ``size`` (height, width).

    Pictures are rendered at ``size`` at once: sampled without antialiasing at the middle of each pixel, they are what
    the robot's 480x640 pictures become at a fifth of their size.

    Raises:
        BackendUnavailable: MuJoCo or OpenGL off screen is missing.
    """
    rng = np.random.default_rng(seed)
    world = SimWorld(seed=seed)
    renderers: tuple[Renderer, ...] = (EglRenderer(world.model, size), SimpleRenderer(world.model, size))
    try:
        parts = [
            moment
            for _ in range(episodes)
            for moment in _episode(world, renderers[int(rng.random() < _SIMPLE_SHARE)], ticks, rng)
        ]
    finally:
        for renderer in renderers:
            renderer.close()
    return Frames(*(np.stack([getattr(part, field.name) for part in parts]) for field in fields(Frames)))


def _episode(world: SimWorld, renderer: Renderer, ticks: int, rng: np.random.Generator) -> Iterator[Frames]:
    world.reset(int(rng.integers(2**31)))
    world.set_targets(world.joint_positions + rng.normal(0, _JOINT_SPREAD))
    world.step(rng.uniform(0.0, 0.6))
    spread, astray = rng.choice(_DISTURBANCE), np.zeros(len(world.joint_names))
    for tick in range(EPISODE_TICKS):
        if tick in (0, EPISODE_TICKS // 2):
            _move_cube(world, rng)
        if tick % _REPLAN_TICKS == 0:
            planned = _right(world, _REPLAN_TICKS)
        if tick % _FRAME_TICKS == 0:
            yield _moment(world, renderer, ticks)
        astray = 0.9 * astray + math.sqrt(1 - 0.9**2) * spread * rng.normal(size=len(astray))
        world.set_targets(planned[tick % _REPLAN_TICKS] + astray)
        world.step(1 / RATE_HZ)


def _move_cube(world: SimWorld, rng: np.random.Generator) -> None:
    """Somewhere a little beyond where cubes lie later: nobody is good at the edge of what he was shown."""
    radius = rng.uniform(CUBE_RADIUS_M[0] - 0.01, CUBE_RADIUS_M[1] + 0.01)
    bearing = rng.uniform(CUBE_BEARING_RAD[0] - 0.08, CUBE_BEARING_RAD[1] + 0.08)
    world.place_cube(radius * math.cos(bearing), radius * math.sin(bearing), rng.uniform(0, math.pi / 2))


def _right(world: SimWorld, ticks: int) -> Float64:
    (path,) = demonstrate(world.joint_positions[None], world.cube_top[None], ticks, 1 / RATE_HZ)
    return np.asarray(path, np.float64)


def _moment(world: SimWorld, renderer: Renderer, ticks: int) -> Frames:
    top, wrist = (renderer.render(world.qpos, camera) for camera in CAMERAS)
    return Frames(top, wrist, world.joint_positions, _right(world, ticks), world.cube_position, world.cube_from_hand)
