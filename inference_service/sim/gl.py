"""Import MuJoCo so that physics works everywhere, whether or not OpenGL is installed.

MuJoCo picks an OpenGL library while it is imported, by the environment variable ``MUJOCO_GL``; with ``egl`` and no EGL
library that import itself fails. So everything here imports MuJoCo through :func:`load_mujoco`.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import BackendUnavailable

EGL_PACKAGES = "libegl1 libgles2 libgl1-mesa-dri"
"""Debian packages that give software rendering without a display or a GPU."""


@lru_cache(maxsize=1)
def missing_egl() -> str | None:
    """Why EGL cannot be loaded, or None. Says nothing of drivers: only a context proves those."""
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        return f"libEGL.so.1 cannot be loaded ({error})"
    return None


@lru_cache(maxsize=1)
def load_mujoco() -> Any:
    """The ``mujoco`` module, with EGL chosen where it is installed and no OpenGL at all where it is not.

    Raises:
        BackendUnavailable: the package is not installed.
    """
    os.environ["MUJOCO_GL"] = "egl" if missing_egl() is None else "disable"
    # Mesa's software renderer would take every core for a picture, away from inference, and gain little.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    # PyOpenGL tells at every start that an optional package is absent.
    logging.getLogger("OpenGL.acceleratesupport").setLevel(logging.WARNING)
    try:
        return importlib.import_module("mujoco")
    except ImportError as error:
        raise BackendUnavailable(
            f"the simulated robot needs the package mujoco ({error}): pip install 'inference-service[sim]'"
        ) from error


def pose(mujoco: Any, model: Any, data: Any, qpos: NDArray[np.float64]) -> None:
    """Put ``data`` into a position: geoms, cameras and lights, no dynamics."""
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
