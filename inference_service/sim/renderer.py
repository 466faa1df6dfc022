"""Camera pictures of a simulated world: OpenGL off screen where it works, drawn polygons everywhere else."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import UInt8
from inference_service.core.errors import BackendUnavailable
from inference_service.sim.gl import EGL_PACKAGES, load_mujoco, missing_egl, pose
from inference_service.sim.pictures import DEFAULT_SIZE
from inference_service.sim.simple_renderer import SimpleRenderer

RendererKind = Literal["auto", "egl", "simple"]

_logger = logging.getLogger(__name__)


class Renderer(Protocol):
    """Draws a world from its position vector; owns whatever state that takes, so it may live on another thread."""

    @property
    def name(self) -> str: ...

    def render(self, qpos: NDArray[np.float64], camera: str) -> UInt8:
        """(H, W, 3) uint8 RGB picture of the world at ``qpos`` (see ``SimWorld.qpos``) from a camera of the model.

        Raises:
            KeyError: the model has no such camera.
        """
        ...

    def close(self) -> None:
        """Release the context, on the thread that made it. Idempotent."""
        ...


class EglRenderer:
    """MuJoCo's own renderer on an EGL context: a GPU where there is one, Mesa's software renderer otherwise.

    Shadows, reflections and multisampling are off, which makes a picture in software several times cheaper;
    ``fine=True`` turns shadows and multisampling on, for pictures that are looked at. An OpenGL context belongs to one
    thread: create, use and close this on the same one.

    Raises:
        BackendUnavailable: no EGL library, or no driver that paints; says what to install.
    """

    name = "egl"

    def __init__(self, model: Any, size: tuple[int, int] = DEFAULT_SIZE, *, fine: bool = False) -> None:
        missing = missing_egl()
        if missing is not None:
            raise BackendUnavailable(f"{missing}: {_advice()}")
        self._mujoco = load_mujoco()
        self._model = model
        self._data = self._mujoco.MjData(model)
        self._scene = self._mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 16)
        self._scene.flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = fine
        self._scene.flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = self._mujoco.MjvOption()
        self._view = self._mujoco.MjrRect(0, 0, size[1], size[0])
        self._gl: Any = None
        self._context: Any = None
        try:
            self._open(fine)
            # Only a picture proves the driver: a broken one gives a context and paints nothing.
            painted = self.render(np.array(model.qpos0), model.camera(0).name).any()
        except Exception as error:
            self.close()
            raise BackendUnavailable(f"no OpenGL context through EGL ({error}): {_advice()}") from error
        if not painted:
            self.close()
            raise BackendUnavailable(f"EGL painted an empty picture: {_advice()}")

    def _open(self, fine: bool) -> None:
        # MuJoCo's library resolves its OpenGL functions by this variable when the first context is made.
        os.environ["MUJOCO_GL"] = "egl"
        self._gl = importlib.import_module("mujoco.egl").GLContext(self._view.width, self._view.height)
        self._gl.make_current()
        quality, scale = self._model.vis.quality, self._mujoco.mjtFontScale.mjFONTSCALE_100
        samples = quality.offsamples
        quality.offsamples = 4 if fine else samples
        try:
            self._context = self._mujoco.MjrContext(self._model, scale.value)
        finally:
            quality.offsamples = samples
        self._mujoco.mjr_resizeOffscreen(self._view.width, self._view.height, self._context)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def render(self, qpos: NDArray[np.float64], camera: str) -> UInt8:
        """See :class:`Renderer`."""
        mujoco, view = self._mujoco, mujoco_camera(self._mujoco, self._model, camera)
        pose(mujoco, self._model, self._data, qpos)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, view, everything, self._scene)
        self._gl.make_current()
        mujoco.mjr_render(self._view, self._scene, self._context)
        picture = np.empty((self._view.height, self._view.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._view, self._context)
        # OpenGL counts rows from the bottom.
        return np.ascontiguousarray(picture[::-1])

    def close(self) -> None:
        """Release the OpenGL context. Idempotent."""
        context, self._context = self._context, None
        gl, self._gl = self._gl, None
        if context is not None:
            gl.make_current()
            context.free()
        if gl is not None:
            gl.free()


def mujoco_camera(mujoco: Any, model: Any, name: str) -> Any:
    """A fixed ``MjvCamera``. Raises KeyError for a name that the model does not have."""
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera


def make_renderer(
    kind: RendererKind,
    model: Any,
    size: tuple[int, int] = DEFAULT_SIZE,
    *,
    warn: Callable[[str], None] = _logger.warning,
) -> Renderer:
    """The renderer asked for, or the best that works here; call it on the thread that will render.

    ``auto`` and ``egl`` fall back to ``simple``, which always works, and tell ``warn`` what is missing and which
    packages would give it. Never fails for want of a GPU, a display or an OpenGL library.
    """
    if kind == "simple":
        return SimpleRenderer(model, size)
    try:
        return EglRenderer(model, size)
    except BackendUnavailable as error:
        warn(f"camera pictures are drawn without OpenGL (renderer 'simple'): {error}")
        return SimpleRenderer(model, size)


def _advice() -> str:
    return f"install the packages {EGL_PACKAGES} (Debian, Ubuntu) for real rendering, with or without a GPU"
