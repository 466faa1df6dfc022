"""The end-to-end oracle: the demo policy comes to the cube, and no longer does when anything is wired wrongly.

One seed each; `scripts/evaluate` measures twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("onnxruntime")

from inference_service.core.policy_folder import PolicyFolder
from inference_service.evaluation.in_process import Pilot, Stage
from inference_service.sim.task import EPISODE_S

DEMO = Path(__file__).resolve().parents[2] / "policies" / "so101_act_demo"
SEED = 1003


@pytest.fixture(scope="module")
def folder() -> PolicyFolder:
    return PolicyFolder.load(DEMO)


@pytest.fixture(scope="module")
def stage(folder: PolicyFolder) -> Iterator[Stage]:
    stage = Stage(folder)
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def pilot(folder: PolicyFolder) -> Iterator[Pilot]:
    pilot = Pilot(folder, "onnx")
    yield pilot
    pilot.close()


def test_it_comes_to_the_cube_and_does_so_again_in_the_same_way(stage: Stage, pilot: Pilot) -> None:
    episode = stage.play(pilot, SEED)
    assert episode.success
    assert episode.reached_s is not None and 0.3 < episode.reached_s < EPISODE_S / 2
    assert stage.play(pilot, SEED) == episode


@pytest.mark.parametrize("encoding", ["u8", "f16", "f32", "jpeg:90"])
def test_it_comes_to_the_cube_on_what_the_wire_delivers(folder: PolicyFolder, stage: Stage, encoding: str) -> None:
    pilot = Pilot(folder, "onnx", encoding)
    try:
        assert stage.play(pilot, SEED).success
    finally:
        pilot.close()


def test_it_comes_to_the_cube_on_pictures_drawn_without_opengl(folder: PolicyFolder, pilot: Pilot) -> None:
    stage = Stage(folder, "simple")
    try:
        assert stage.play(pilot, SEED).success
    finally:
        stage.close()


def test_the_reference_engine_comes_to_the_cube_too(folder: PolicyFolder, stage: Stage) -> None:
    pytest.importorskip("lerobot")
    pilot = Pilot(folder, "cpu")
    try:
        assert stage.play(pilot, SEED).success
    finally:
        pilot.close()


@pytest.mark.parametrize("mistake", ["cameras", "bgr", "joints", "late"])
def test_a_wrong_wiring_shows(stage: Stage, pilot: Pilot, mistake: str) -> None:
    assert not stage.play(pilot, SEED, mistake).success  # type: ignore[arg-type]


def test_a_policy_that_looks_back_sees_the_ticks_before(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One observation a tick, none from the episode before."""
    ticks = {"now": -1}
    step = stage.world.step
    monkeypatch.setattr(stage.world, "step", lambda dt: (ticks.update(now=ticks["now"] + 1), step(dt)))
    monkeypatch.setattr(stage, "observe", lambda: {"tick": ticks["now"]})
    asked: list[list[int]] = []

    class LookingBack:
        looks_back = 2

        def __call__(self, observation: dict[str, int], earlier: Sequence[dict[str, int]]) -> np.ndarray:
            asked.append([seen["tick"] for seen in (*earlier, observation)])
            return np.zeros((50, 6), np.float32)

    for _ in range(2):
        ticks["now"] = -1
        stage.play(LookingBack(), SEED)  # type: ignore[arg-type]
    episode = asked[: len(asked) // 2]
    assert episode == asked[len(asked) // 2 :]
    assert len(episode[0]) == 1
    assert all(later == list(range(later[-1] - 2, later[-1] + 1)) for later in episode[1:])
    assert len(episode) > 3
