"""The end-to-end oracle: the demo policy comes to the cube, and no longer does when anything is wired wrongly.

One seed each; `scripts/evaluate` measures twenty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
