"""Lays the cube for the arm, again and again, and counts how often the finger tips came to it."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.sim.task import HOLD_S, TOLERANCE_M, tip_distance
from inference_service.sim.world import SimWorld


@dataclass(frozen=True)
class Score:
    """Of the task since :meth:`Referee.begin`. ``seed`` is the last reset's, ``elapsed_s`` the time since the cube was
    laid, ``distance_m`` from the tips to it; ``reached`` of ``cubes`` cubes that are done with."""

    seed: int
    elapsed_s: float
    distance_m: float
    reached: int
    cubes: int


class Referee:
    """Call :meth:`step` whenever the world has moved on.

    ``move_after_s`` above 0: the cube moves when the tips have been at it for :data:`HOLD_S`, or after so long.
    ``reset_every_s`` above 0: the world is reset that often, each time with the next seed. 0: left as it is.
    Nothing happens before :meth:`begin`, so that a robot that is still starting loses no time.
    """

    def __init__(self, world: SimWorld, seed: int, move_after_s: float = 0.0, reset_every_s: float = 0.0) -> None:
        self._world = world
        self._seed = seed
        self._move_after_s, self._reset_every_s = move_after_s, reset_every_s
        self._begun = False
        self._elapsed_s = self._held_s = 0.0
        self._reached = self._cubes = 0

    def begin(self) -> None:
        """The arm is commanded from now on. Further calls change nothing."""
        self._begun = True

    @property
    def score(self) -> Score:
        return Score(self._seed, self._elapsed_s, tip_distance(self._world), self._reached, self._cubes)

    def step(self, dt: float) -> None:
        """``dt`` seconds have passed in the world."""
        if not self._begun:
            return
        self._elapsed_s += dt
        self._held_s = self._held_s + dt if tip_distance(self._world) <= TOLERANCE_M else 0.0
        if 0 < self._reset_every_s <= self._elapsed_s:
            self.reset()
        elif self._move_after_s > 0 and (self._held_s >= HOLD_S or self._elapsed_s >= self._move_after_s):
            self._close_round()
            self._world.move_cube()

    def reset(self) -> None:
        """Everything back to where it begins, with the next seed."""
        self._close_round()
        self._seed += 1
        self._world.reset(self._seed)

    def _close_round(self) -> None:
        self._reached += self._held_s >= HOLD_S
        self._cubes += 1
        self._elapsed_s = self._held_s = 0.0
