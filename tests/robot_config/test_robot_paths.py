"""Substitutions and model paths are resolved when they are needed, and say what they tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robot_files import FULL, line_of

import robot_config
from robot_config import ConfigError, SubstitutionError, load_robot_config
from robot_config.substitutions import resolve

Write = Callable[..., Path]


def test_a_file_loads_where_its_variables_packages_and_models_are_missing(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELS", raising=False)
    path = write(text=FULL)
    cfg = load_robot_config(path)
    with pytest.raises(SubstitutionError, match=r"\$\(env MODELS\): the variable is not set") as caught:
        cfg.model_path("first")
    assert str(caught.value).startswith(f"{path}:{line_of(path, '$(env MODELS)')}")


def test_env_and_optenv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/some/where")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert resolve("$(env HERE)/a/$(optenv HERE x)", "f:1") == "/some/where/a//some/where"
    assert resolve("$(optenv NOWHERE  two words)/a", "f:1") == "two words/a"
    assert resolve("$(optenv NOWHERE)a", "f:1") == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(evn HOME)", "f:1: .*not known: did you mean 'env'"),
        ("$(env )", "names nothing"),
        ("$(env HOME", "without its closing bracket"),
        ("$(find no_such_package)", "no such ROS package in AMENT_PREFIX_PATH"),
    ],
)
def test_substitutions_that_cannot_be_resolved(text: str, message: str) -> None:
    with pytest.raises(SubstitutionError, match=message):
        resolve(text, "f:1")


def test_find_knows_our_own_packages_and_the_ament_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert robot_config.__file__ is not None
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert resolve("$(find robot_config)", "f:1") == str(Path(robot_config.__file__).parent)
    index = tmp_path / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "arm_description").touch()
    assert resolve("$(find arm_description)/urdf", "f:1") == str(tmp_path / "share/arm_description/urdf")


def test_a_model_beside_the_file_wins_over_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_robot_config(write())
    elsewhere = tmp_path / "elsewhere"
    for place in (elsewhere / "policies/reach", tmp_path / "policies/reach"):
        place.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert cfg.model_path("reach") == tmp_path / "policies/reach"
    (tmp_path / "policies/reach").rmdir()
    assert cfg.model_path("reach") == elsewhere / "policies/reach"


def test_the_root_of_the_repository_is_tried_last(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(str(robot_config.__file__)).parent.parent
    cfg = load_robot_config(write("path: policies/reach", "path: robot_config/robots"))
    assert cfg.model_path("reach") == root / "robot_config/robots"


def test_a_model_that_is_nowhere_lists_every_place(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write()
    with pytest.raises(ConfigError) as caught:
        load_robot_config(path).model_path("reach")
    text = str(caught.value)
    assert text.startswith(
        f"{path}:{line_of(path, 'policies/reach')}: robot.models.reach.path: 'policies/reach' does not"
    )
    assert f"{tmp_path}/policies/reach" in text
    assert f"{elsewhere}/policies/reach" in text
    assert f"{Path(str(robot_config.__file__)).parent.parent}/policies/reach" in text


def test_an_unknown_model_name(write: Write) -> None:
    with pytest.raises(ConfigError, match="no model 'raech': did you mean 'reach'"):
        load_robot_config(write()).model_path("raech")


def test_the_calibration_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/robot")
    assert load_robot_config(write(text=FULL)).calibration_file() == Path("/home/robot/.calibrate/arm.json")
    assert load_robot_config(write()).calibration_file() is None


@pytest.mark.parametrize("path", ["~nobody-of-that-name/model", "a" * 5000])
def test_a_path_that_cannot_be_is_nowhere(write: Write, path: str) -> None:
    with pytest.raises(ConfigError, match="does not exist here"):
        load_robot_config(write("path: policies/reach", f"path: {path}")).model_path("reach")
    with pytest.raises(ConfigError, match=r"cannot be read|no such file"):
        load_robot_config(f"{path}.yaml")
