"""Both renderers show the same scene, and want of OpenGL is never fatal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from inference_service.core.errors import BackendUnavailable
from inference_service.sim import renderer as renderers
from inference_service.sim.renderer import EglRenderer, Renderer, make_renderer
from inference_service.sim.simple_renderer import SimpleRenderer
from inference_service.sim.world import SimWorld

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world() -> SimWorld:
    return SimWorld(seed=4)


@pytest.fixture(params=["egl", "simple"])
def renderer(request: pytest.FixtureRequest, world: SimWorld) -> Iterator[Renderer]:
    if request.param == "simple":
        made: Renderer = SimpleRenderer(world.model)
    else:
        try:
            made = EglRenderer(world.model)
        except BackendUnavailable as error:
            pytest.skip(str(error))
    yield made
    made.close()


def red(picture: np.ndarray) -> np.ndarray:
    """(H, W) where the picture has the cube's colour, which nothing else in the scene has."""
    r, g, b = (picture[..., i].astype(int) for i in range(3))
    return (r > 120) & (g < r * 0.35) & (b < r * 0.35)


def yellow(picture: np.ndarray) -> np.ndarray:
    r, g, b = (picture[..., i].astype(int) for i in range(3))
    return (r > 120) & (g > r * 0.55) & (g < r * 0.9) & (b < r * 0.35)


def test_the_top_camera_shows_cube_and_arm_where_they_are(world: SimWorld, renderer: Renderer) -> None:
    world.place_cube(0.22, 0.12)
    left = renderer.render(world.qpos, "top")
    world.place_cube(0.22, -0.12)
    right = renderer.render(world.qpos, "top")
    for picture in (left, right):
        assert picture.shape == (480, 640, 3)
        assert picture.dtype == np.uint8
        assert 300 < red(picture).sum() < 1200
        assert yellow(picture).sum() > 3000
    # +y is to the left of a robot that looks ahead, and up in the picture is ahead.
    columns = [np.nonzero(red(picture))[1].mean() for picture in (left, right)]
    rows = [np.nonzero(red(picture))[0].mean() for picture in (left, right)]
    assert columns[0] < 220
    assert columns[1] > 420
    assert rows[0] == pytest.approx(rows[1], abs=3)
    assert rows[0] < 240


def test_the_wrist_camera_moves_with_the_arm(renderer: Renderer) -> None:
    world = SimWorld(seed=1)
    world.place_cube(0.24, 0.0)
    before = renderer.render(world.qpos, "wrist")
    assert red(before).sum() > 1000
    world.set_targets([1.0], ["1"])
    world.step(2.0)
    after = renderer.render(world.qpos, "wrist")
    assert red(after).sum() < red(before).sum() / 4


def test_what_is_behind_is_hidden(renderer: Renderer) -> None:
    world = SimWorld(seed=1)
    world.place_cube(0.06, 0.0)
    assert red(renderer.render(world.qpos, "top")).sum() < 10, "the cube shows through the forearm"
    world.set_targets([1.2], ["1"])
    world.step(2.0)
    assert red(renderer.render(world.qpos, "top")).sum() > 300


def test_both_renderers_agree(world: SimWorld) -> None:
    try:
        real = EglRenderer(world.model)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    drawn = SimpleRenderer(world.model)
    world.place_cube(0.24, 0.03, yaw_rad=0.4)
    for camera in ("top", "wrist"):
        a, b = (red(r.render(world.qpos, camera)) for r in (real, drawn))
        assert (a & b).sum() > 0.85 * (a | b).sum(), f"{camera}: cube not at the same place"
    real.close()


def test_other_sizes_and_unknown_cameras(world: SimWorld, renderer: Renderer) -> None:
    small = type(renderer)(world.model, (96, 128))
    assert small.render(world.qpos, "wrist").shape == (96, 128, 3)
    with pytest.raises(KeyError, match="front"):
        small.render(world.qpos, "front")
    small.close()


def test_the_same_world_gives_the_same_picture(world: SimWorld, renderer: Renderer) -> None:
    first = renderer.render(world.qpos, "top")
    renderer.render(world.qpos, "wrist")
    np.testing.assert_array_equal(renderer.render(world.qpos, "top"), first)


@pytest.mark.parametrize("kind", ["auto", "egl"])
def test_without_egl_the_simple_one_takes_over_and_says_why(
    kind: str, world: SimWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderers, "missing_egl", lambda: "libEGL.so.1 cannot be loaded (no such file)")
    said: list[str] = []
    made = make_renderer(kind, world.model, warn=said.append)  # type: ignore[arg-type]
    assert made.name == "simple"
    assert len(said) == 1
    for part in ("libEGL.so.1", "libegl1", "libgles2", "libgl1-mesa-dri"):
        assert part in said[0]
    assert red(made.render(world.qpos, "top")).any()


def test_a_driver_that_fails_is_not_fatal(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("Cannot create an EGL context.")

    monkeypatch.setattr(renderers, "missing_egl", lambda: None)
    monkeypatch.setattr(EglRenderer, "_open", broken)
    said: list[str] = []
    assert make_renderer("auto", world.model, warn=said.append).name == "simple"
    assert "Cannot create an EGL context" in said[0]
    assert "libgl1-mesa-dri" in said[0]


def test_simple_asks_for_no_opengl(world: SimWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderers, "missing_egl", lambda: pytest.fail("looked for EGL"))
    said: list[str] = []
    assert make_renderer("simple", world.model, warn=said.append).name == "simple"
    assert not said


def test_physics_and_pictures_work_where_egl_is_not_installed() -> None:
    """A process of its own in which libEGL cannot be loaded, MUJOCO_GL=egl asked for all the same."""
    script = """
import ctypes
whole = ctypes.CDLL
def without_egl(name, *args, **kwargs):
    if name and "EGL" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    return whole(name, *args, **kwargs)
ctypes.CDLL = without_egl
from inference_service.sim.world import SimWorld
from inference_service.sim.renderer import make_renderer
world = SimWorld(seed=1)
said = []
made = make_renderer("auto", world.model, warn=said.append)
print(made.name, made.render(world.qpos, "top").shape, said[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("simple (480, 640, 3)")
    assert "libegl1" in done.stdout
