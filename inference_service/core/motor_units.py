"""LeRobot's motor units and the robot's radians.

LeRobot writes a joint as a share of its calibrated range, ros2_control as radians. A calibration file (LeRobot's
``MotorCalibration`` as JSON, one object per joint) holds the range in encoder ticks, ``range_min`` to ``range_max``,
of 4096 to a turn, with 2048 at 0 rad: ``rad = (ticks - 2048) * 2 pi / 4096``. With ``lo`` and ``hi`` the ends of the
range, and as in IB-Robot's ``robot_config.utils.build_joint_conversion_table`` and LeRobot's
``MotorsBus._normalize``:

==================  =============================================================================
range_m100_100      ``(ticks - lo) / (hi - lo) * 200 - 100``; a gripper: ``(ticks - lo) / (hi - lo) * 100``
degrees             ``(ticks - (lo + hi) / 2) * 360 / 4095`` (sic: LeRobot divides by the highest tick)
none                radians, unchanged
==================  =============================================================================

Base velocity joints (wheels, rad/s) go from ±``base_vel_max_rad`` to ±100 in both modes, as in IB-Robot's policy node.

As there, nothing is clipped: a joint beyond its calibrated range gives a value beyond ±100, which the policy's
statistics take as it comes; an action beyond it gives radians beyond the range, which the dispatcher's joint limits
clamp and count. ``drive_mode`` and ``homing_offset`` are not read: both are the driver's business, whose radians are
of the ticks that the range is written in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import CalibrationError

NormMode = Literal["range_m100_100", "degrees", "none"]
Float64 = NDArray[np.float64]
Calibration = Mapping[str, "TickRange"]

_TICKS = 4096
_ZERO_TICK = 2048.0
_TICKS_PER_RAD = _TICKS / (2.0 * math.pi)
_DEGREES_PER_TICK = 360.0 / (_TICKS - 1)


@dataclass(frozen=True)
class TickRange:
    """A joint's calibrated range, encoder ticks; ``low < high``."""

    low: int
    high: int


@dataclass(frozen=True)
class UnitScale:
    """Radians (or rad/s) to motor units along a line: ``rad_low`` is ``offset``, ``rad_high`` is ``offset + span``."""

    rad_low: float
    rad_high: float
    span: float
    offset: float


UNCHANGED = UnitScale(0.0, 1.0, 1.0, 0.0)
"""The scale of a value that has no motor unit. Exact: subtracting 0 and multiplying by 1 changes no bit."""


class UnitTable:
    """The scales of a vector, in its order. Elements beyond them pass unchanged."""

    def __init__(self, scales: Sequence[UnitScale]) -> None:
        self.scales = tuple(scales)
        columns = np.array([(s.rad_low, s.rad_high, s.span, s.offset) for s in scales], np.float64).reshape(-1, 4).T
        self._low, self._high, self._span, self._offset = columns

    def to_units(self, values: NDArray[np.floating[Any]]) -> Float64:
        """Radians (or rad/s) as motor units: float (…, n) to float64 (…, n)."""
        return self._apply(values, lambda x, low, high, span, offset: (x - low) / (high - low) * span + offset)

    def to_radians(self, values: NDArray[np.floating[Any]]) -> Float64:
        """Motor units as radians (or rad/s): float (…, n) to float64 (…, n)."""
        return self._apply(values, lambda x, low, high, span, offset: (x - offset) / span * (high - low) + low)

    def _apply(self, values: NDArray[np.floating[Any]], formula: Callable[..., Float64]) -> Float64:
        result = np.array(values, np.float64)
        n = min(result.shape[-1], len(self.scales))
        result[..., :n] = formula(result[..., :n], self._low[:n], self._high[:n], self._span[:n], self._offset[:n])
        return result


def joint_scale(mode: NormMode, ticks: TickRange, gripper: bool) -> UnitScale:
    """The scale of a calibrated joint. ``gripper`` counts in ``range_m100_100`` only."""
    if mode == "none":
        return UNCHANGED
    rad_low, rad_high = ((tick - _ZERO_TICK) / _TICKS_PER_RAD for tick in (ticks.low, ticks.high))
    if mode == "degrees":
        span = (ticks.high - ticks.low) * _DEGREES_PER_TICK
        return UnitScale(rad_low, rad_high, span, -span / 2.0)
    return UnitScale(rad_low, rad_high, 100.0, 0.0) if gripper else UnitScale(rad_low, rad_high, 200.0, -100.0)


def velocity_scale(max_rad_s: float) -> UnitScale:
    """The scale of a base velocity joint: ±``max_rad_s`` rad/s is ±100."""
    return UnitScale(-max_rad_s, max_rad_s, 200.0, -100.0)


def read_calibration(path: Path, joints: Iterable[str], where: str) -> Calibration:
    """The ranges of ``joints`` in a LeRobot calibration file; ``where`` says who named the file.

    Raises:
        CalibrationError: the file cannot be read, lacks a joint or key, or a range is none; names file, joint, key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CalibrationError(
            f"{where}: no calibration file {path}; calibrate the robot or copy its file there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: calibration file {path} is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise CalibrationError(f"{where}: calibration file {path} holds a {type(data).__name__}, not joints by name")
    return {joint: _tick_range(path, data, joint) for joint in joints}


def _tick_range(path: Path, data: Mapping[str, Any], joint: str) -> TickRange:
    if joint not in data:
        raise CalibrationError(
            f"{path}: joint {joint!r} is missing (the file has {', '.join(data) or 'none'}); calibrate this robot, "
            "or name the joints as the robot file does"
        )
    entry = data[joint]
    if not isinstance(entry, dict):
        raise CalibrationError(f"{path}: joint {joint!r}: expected an object with range_min and range_max")
    low, high = (_tick(path, joint, entry, key) for key in ("range_min", "range_max"))
    if low >= high:
        raise CalibrationError(
            f"{path}: joint {joint!r}: range_min {low} is not below range_max {high}; calibrate this joint again"
        )
    return TickRange(low, high)


def _tick(path: Path, joint: str, entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        found = "is missing" if value is None else f"must be a whole number of ticks, found {value!r:.40}"
        raise CalibrationError(f"{path}: joint {joint!r}: {key} {found}; calibrate this joint again")
    return value
