"""The simulated arm, table and cube: pure physics, deterministic for a seed and a sequence of calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import BackendUnavailable, SafetyError
from inference_service.sim.gl import load_mujoco

Float64 = NDArray[np.float64]

CUBE_RADIUS_M = (0.20, 0.25)
"""How far from the arm's pan axis a reset puts the cube."""
CUBE_BEARING_RAD = (-0.6, 0.6)
"""The cube's bearing seen from the pan axis, 0 straight ahead."""

TIP_BEYOND_GRIP_M = 0.012
"""The ends of the finger tips lie so far beyond the site ``grip`` along the hand."""

_CUBE_DROP_M = 0.002
_SETTLE_S = 0.2


def default_model_path() -> Path:
    """The arm that comes with the package, ``robot_config/models/so101.xml``."""
    return Path(str(files("robot_config").joinpath("models/so101.xml")))


class SimWorld:
    """A MuJoCo world with position-controlled joints, a free ``cube`` and a keyframe ``home``.

    Args:
        model_path: an MJCF file; None for the arm that comes with the package.
        seed: where the cube lies after each :meth:`reset`.

    Not safe for use from several threads at once: whoever shares it holds a lock.

    Raises:
        BackendUnavailable: MuJoCo is not installed, or the model file is missing, unreadable or lacks the parts above.
    """

    def __init__(self, model_path: str | Path | None = None, seed: int = 0) -> None:
        self._mujoco = load_mujoco()
        path = Path(model_path) if model_path is not None else default_model_path()
        self.model = _load_model(self._mujoco, path)
        self._data: Any = self._mujoco.MjData(self.model)
        self.joint_names: tuple[str, ...] = tuple(self.model.actuator(i).name for i in range(self.model.nu))
        joints = [self.model.joint(name) for name in self.joint_names]
        self._qpos = np.array([int(joint.qposadr[0]) for joint in joints])
        self._qvel = np.array([int(joint.dofadr[0]) for joint in joints])
        self._cube_qpos = int(self.model.joint("cube").qposadr[0])
        self._half_cube = float(self.model.geom("cube").size[2])
        self._rng = np.random.default_rng(seed)
        self._owed_s = 0.0
        self.reset()

    @property
    def limits(self) -> Float64:
        """(joints, 2) lowest and highest target of each actuator, rad."""
        return np.array(self.model.actuator_ctrlrange, np.float64)

    @property
    def time_s(self) -> float:
        """Simulated time since the last reset."""
        return float(self._data.time)

    @property
    def qpos(self) -> Float64:
        """A copy of MuJoCo's whole position vector: what a renderer needs."""
        return np.array(self._data.qpos, np.float64)

    @property
    def joint_positions(self) -> Float64:
        """(joints,) rad, in the order of ``joint_names``."""
        return np.array(self._data.qpos[self._qpos], np.float64)

    @property
    def joint_velocities(self) -> Float64:
        """(joints,) rad/s, in the order of ``joint_names``."""
        return np.array(self._data.qvel[self._qvel], np.float64)

    @property
    def targets(self) -> Float64:
        """(joints,) rad: what the actuators pull towards."""
        return np.array(self._data.ctrl, np.float64)

    @property
    def cube_position(self) -> Float64:
        """(3,) metres: the centre of the cube."""
        return np.array(self._data.body("cube").xpos, np.float64)

    @property
    def gripper_position(self) -> Float64:
        """(3,) metres: the point between the finger tips."""
        return np.array(self._data.site("grip").xpos, np.float64)

    @property
    def tip_position(self) -> Float64:
        """(3,) metres: the middle of the finger tips' ends."""
        site = self._data.site("grip")
        return np.array(site.xpos + TIP_BEYOND_GRIP_M * site.xmat.reshape(3, 3)[:, 0], np.float64)

    @property
    def cube_top(self) -> Float64:
        """(3,) metres: the centre of the cube's top face, for a cube that stands."""
        top = self.cube_position
        top[2] += self._half_cube
        return top

    @property
    def cube_from_hand(self) -> Float64:
        """(3,) metres: the cube's centre seen from the hand (its x points out of the fingers)."""
        site = self._data.site("grip")
        return np.array(site.xmat.reshape(3, 3).T @ (self.cube_position - site.xpos), np.float64)

    def reset(self, seed: int | None = None) -> None:
        """Back to ``home`` with the cube at a random place in reach, at rest on the table.

        Without a seed the next place of the world's own sequence is taken.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._mujoco.mj_resetDataKeyframe(self.model, self._data, self.model.key("home").id)
        self.move_cube()
        self._owed_s = 0.0
        self.step(_SETTLE_S)
        self._data.time = 0.0

    def move_cube(self) -> None:
        """The next random place for the cube, in reach; the arm stays as it is."""
        radius = self._rng.uniform(*CUBE_RADIUS_M)
        bearing = self._rng.uniform(*CUBE_BEARING_RAD)
        self.place_cube(radius * math.cos(bearing), radius * math.sin(bearing), self._rng.uniform(0.0, math.pi / 2))

    def place_cube(self, x_m: float, y_m: float, yaw_rad: float = 0.0, z_m: float | None = None) -> None:
        """Put the cube somewhere, at rest; ``z_m`` is its centre (default: just above the table, it drops 2 mm)."""
        z = self._half_cube + _CUBE_DROP_M if z_m is None else z_m
        half = yaw_rad / 2
        first = self._cube_qpos
        self._data.qpos[first : first + 7] = (x_m, y_m, z, math.cos(half), 0.0, 0.0, math.sin(half))
        first = int(self.model.joint("cube").dofadr[0])
        self._data.qvel[first : first + 6] = 0.0
        self._mujoco.mj_forward(self.model, self._data)

    def set_targets(self, targets: Sequence[float] | Float64, joints: Sequence[str] | None = None) -> None:
        """Set position targets in rad, for all joints or the named ones; clipped to the actuators' range.

        Raises:
            SafetyError: wrong number of values, an unknown joint, or a value that is not finite. Nothing is set then.
        """
        names = self.joint_names if joints is None else tuple(joints)
        values = np.asarray(targets, np.float64)
        unknown = [name for name in names if name not in self.joint_names]
        if unknown:
            raise SafetyError(f"no joint {unknown[0]!r}: this arm has {', '.join(self.joint_names)}")
        if values.shape != (len(names),):
            raise SafetyError(f"{values.size} targets for {len(names)} joints ({', '.join(names)})")
        if not np.isfinite(values).all():
            bad = names[int(np.flatnonzero(~np.isfinite(values))[0])]
            raise SafetyError(f"target of joint {bad!r} is not finite: {values.tolist()}")
        index = [self.joint_names.index(name) for name in names]
        low, high = self.limits[index].T
        self._data.ctrl[index] = np.clip(values, low, high)

    def step(self, dt: float) -> None:
        """Advance by ``dt`` seconds in whole physics steps; what is left over counts for the next call."""
        if not (math.isfinite(dt) and dt >= 0):
            raise ValueError(f"dt must be finite and not negative, got {dt}")
        timestep = float(self.model.opt.timestep)
        self._owed_s += dt
        # The nudge keeps 0.1 s worth 50 steps of 2 ms although neither is exact in binary.
        steps = int(self._owed_s / timestep + 1e-6)
        if steps:
            self._mujoco.mj_step(self.model, self._data, steps)
            # Positions were integrated last: bring cube, camera and finger poses up to them.
            self._mujoco.mj_kinematics(self.model, self._data)
        self._owed_s -= steps * timestep


def _load_model(mujoco: Any, path: Path) -> Any:
    if not path.is_file():
        raise BackendUnavailable(f"no simulation model at {path}: give the path of an MJCF file")
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise BackendUnavailable(f"simulation model {path}: {error}") from error
    for kind, name in (("key", "home"), ("joint", "cube"), ("geom", "cube"), ("site", "grip")):
        try:
            getattr(model, kind)(name)
        except KeyError as error:
            raise BackendUnavailable(f"simulation model {path}: it needs a {kind} named {name!r}") from error
    return model
