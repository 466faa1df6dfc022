"""Motor units against values worked out by hand, against LeRobot itself, and the files that they are read from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inference_service.core.errors import CalibrationError
from inference_service.core.motor_units import (
    UNCHANGED,
    NormMode,
    TickRange,
    UnitTable,
    joint_scale,
    read_calibration,
    velocity_scale,
)

QUARTER = math.pi / 2
RANGE = TickRange(1024, 3072)  # -90° to +90° around tick 2048


def table(mode: NormMode, *, gripper: bool = False, ticks: TickRange = RANGE) -> UnitTable:
    return UnitTable([joint_scale(mode, ticks, gripper)])


def test_an_arm_joint_by_hand() -> None:
    values = np.array([[-QUARTER], [0.0], [QUARTER / 2], [QUARTER]])
    np.testing.assert_allclose(table("range_m100_100").to_units(values)[:, 0], [-100, 0, 50, 100], atol=1e-12)


def test_a_gripper_by_hand() -> None:
    values = np.array([[-QUARTER], [0.0], [QUARTER]])
    np.testing.assert_allclose(table("range_m100_100", gripper=True).to_units(values)[:, 0], [0, 50, 100], atol=1e-12)


def test_degrees_by_hand() -> None:
    """90° of ticks are 1024 ticks, which LeRobot calls 1024 * 360 / 4095 = 90.0220 degrees; a gripper counts alike."""
    for gripper in (False, True):
        units = table("degrees", gripper=gripper).to_units(np.array([-QUARTER, 0.0, QUARTER])[:, None])[:, 0]
        np.testing.assert_allclose(units, [-90.02197802, 0.0, 90.02197802], atol=1e-8)


def test_a_range_off_centre_by_hand() -> None:
    """Ticks 800 to 2800, middle 1800: tick 2048 (0 rad) is 248 above it: 24.8 of 100, or 248 * 360 / 4095 degrees."""
    zero = np.zeros((1, 1))
    ticks = TickRange(800, 2800)
    assert table("range_m100_100", ticks=ticks).to_units(zero)[0, 0] == pytest.approx(24.8)
    assert table("degrees", ticks=ticks).to_units(zero)[0, 0] == pytest.approx(21.8021978)
    assert table("degrees", ticks=ticks).to_radians(zero)[0, 0] == pytest.approx(-248 * 2 * math.pi / 4096)


def test_wheels_by_hand() -> None:
    wheels = UnitTable([velocity_scale(4.602)] * 3)
    np.testing.assert_allclose(wheels.to_units(np.array([-4.602, 0.0, 2.301])), [-100, 0, 50], atol=1e-12)
    np.testing.assert_allclose(wheels.to_radians(np.array([100.0, -50.0, 0.0])), [4.602, -2.301, 0], atol=1e-12)


def test_nothing_is_clipped_beyond_the_range() -> None:
    units = table("range_m100_100")
    assert units.to_units(np.array([2 * QUARTER]))[0] == pytest.approx(200)
    assert units.to_radians(np.array([-150.0]))[0] == pytest.approx(-1.5 * QUARTER)


@pytest.mark.parametrize("mode", ["range_m100_100", "degrees", "none"])
def test_there_and_back(mode: NormMode) -> None:
    rng = np.random.default_rng(3)
    ranges = [TickRange(int(low), int(low) + 1500) for low in rng.integers(0, 2500, 6)]
    units = UnitTable([joint_scale(mode, ticks, gripper=i == 5) for i, ticks in enumerate(ranges)])
    radians = rng.uniform(-3, 3, (50, 6))
    np.testing.assert_allclose(units.to_radians(units.to_units(radians)), radians, atol=1e-12)


def test_values_without_a_unit_pass_bit_for_bit() -> None:
    values = np.random.default_rng(4).standard_normal((20, 4)).astype(np.float32)
    units = UnitTable([UNCHANGED, joint_scale("degrees", RANGE, False)])
    for converted in (units.to_units(values), units.to_radians(values)):
        np.testing.assert_array_equal(converted[:, [0, 2, 3]], values[:, [0, 2, 3]])
        assert (converted[:, 1] != values[:, 1]).all()
    np.testing.assert_array_equal(UnitTable(()).to_units(values), values)


def test_as_lerobot_normalises_ticks() -> None:
    """LeRobot's own bus on encoder ticks, and ours on the radians that ros2_control makes of the same ticks."""
    motors = pytest.importorskip("lerobot.motors")
    bus = pytest.importorskip("lerobot.motors.motors_bus")
    ranges = {1: TickRange(700, 3500), 2: TickRange(1500, 2600)}
    modes: dict[NormMode, Any] = {"range_m100_100": motors.MotorNormMode.RANGE_M100_100}
    modes["degrees"] = motors.MotorNormMode.DEGREES
    for mode, theirs in modes.items():
        grip = motors.MotorNormMode.RANGE_0_100 if mode == "range_m100_100" else theirs
        stand_in = SimpleNamespace(
            calibration={str(i): motors.MotorCalibration(i, 0, 0, r.low, r.high) for i, r in ranges.items()},
            motors={"1": motors.Motor(1, "sts3215", theirs), "2": motors.Motor(2, "sts3215", grip)},
            apply_drive_mode=True,
            model_resolution_table={"sts3215": 4096},
            _id_to_name=str,
            _id_to_model=lambda _id: "sts3215",
        )
        ticks = {1: 1234, 2: 2345}
        expected = bus.SerialMotorsBus._normalize(stand_in, ticks)
        units = UnitTable([joint_scale(mode, ranges[i], gripper=i == 2) for i in ranges])
        radians = np.array([(t - 2048) * 2 * math.pi / 4096 for t in ticks.values()])
        np.testing.assert_allclose(units.to_units(radians), [expected[1], expected[2]], rtol=1e-12)


GOOD: dict[str, Any] = {"id": 1, "drive_mode": 0, "homing_offset": 12, "range_min": 100, "range_max": 200}


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_file_gives_the_ranges_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "arm.json", {"1": GOOD, "2": {"range_min": -5, "range_max": 7}, "9": "of another arm"})
    assert read_calibration(path, ["2", "1"], "r.yaml:3") == {"2": TickRange(-5, 7), "1": TickRange(100, 200)}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"shoulder_pan": GOOD}, ["joint '1'", "shoulder_pan"]),
        ({"1": [100, 200]}, ["joint '1'", "range_min"]),
        ({"1": {"range_max": 200}}, ["joint '1'", "range_min", "missing"]),
        ({"1": {**GOOD, "range_max": "200"}}, ["joint '1'", "range_max", "'200'"]),
        ({"1": {**GOOD, "range_max": True}}, ["range_max"]),
        ({"1": {**GOOD, "range_max": 100}}, ["joint '1'", "range_min 100", "range_max 100"]),
        ([], ["list"]),
        ("{", ["JSON"]),
    ],
)
def test_a_bad_file_is_named_with_joint_and_key(tmp_path: Path, data: Any, words: list[str]) -> None:
    path = write(tmp_path / "arm.json", data)
    with pytest.raises(CalibrationError) as caught:
        read_calibration(path, ["1"], "r.yaml:3")
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_missing_file_names_who_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"r\.yaml:3: .*gone\.json"):
        read_calibration(tmp_path / "gone.json", ["1"], "r.yaml:3")
