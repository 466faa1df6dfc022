"""What ROS 2 needs to find the packages: by pip into a prefix, and as colcon reads them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools

from inference_service.cli import EXECUTABLES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("inference_service", "robot_config")
DEFINITIONS = ROOT / "inference_service/wire/msg/ibrobot_msgs"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files that git knows, installed by pip into a prefix of their own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("prefix")
    names = ["inference_service", "robot_config", "scripts", "pyproject.toml", "LICENSE", "README.md"]
    present = [name for name in names if (ROOT / name).exists()]
    run("cp", "-a", *present, str(source), cwd=ROOT)
    (source / "README.md").touch()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--prefix", str(target), str(source), cwd=source)
    return target


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_prefix_holds_both_packages(prefix: Path) -> None:
    for name in PACKAGES:
        assert (prefix / "share/ament_index/resource_index/packages" / name).is_file()
        assert ElementTree.parse(prefix / "share" / name / "package.xml").findtext("name") == name
    assert (prefix / "share/robot_config/launch/robot.launch.py").is_file()
    assert (prefix / "share/inference_service/launch/cloud_inference.launch.py").is_file()
    robots = {path.name for path in (ROOT / "robot_config/robots").glob("*.yaml")}
    assert {path.name for path in (prefix / "share/robot_config/config/robots").iterdir()} == robots
    executables = {path.name for path in (prefix / "lib/inference_service").iterdir()}
    assert executables == set(EXECUTABLES)


@pytest.mark.parametrize("executable", sorted(EXECUTABLES))
def test_an_executable_finds_its_packages_beside_it(prefix: Path, executable: str, tmp_path: Path) -> None:
    path = prefix / "lib/inference_service" / executable
    assert os.access(path, os.X_OK)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert "use_sim_time: False" in run(str(path), "--help", cwd=tmp_path, PATH=search)


def test_ament_finds_the_share_directory(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robot_config.substitutions import resolve

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    assert resolve("$(find robot_config)/config", "f:1") == str(prefix / "share/robot_config/config")


def colcon_sees(package: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the package's setup.py says, read from its directory as colcon does."""
    said: dict[str, Any] = {}
    directory = ROOT / "scripts/ros" / package
    monkeypatch.chdir(directory)
    monkeypatch.setattr(setuptools, "setup", lambda **words: said.update(words))
    runpy.run_path(str(directory / "setup.py"))
    return said


@pytest.mark.parametrize("package", PACKAGES)
def test_colcon_installs_the_same(package: str, prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = colcon_sees(package, monkeypatch)
    installed = {Path(where) / Path(f).name for where, files in said["data_files"] for f in files}
    by_pip = {p.relative_to(prefix) for top in ("share", f"lib/{package}") for p in (prefix / top).rglob("*")}
    files = {p for p in by_pip if (prefix / p).is_file() and p.suffix != ".pyc" and package in str(p)}
    assert installed == files
    for _, names in said["data_files"]:
        assert all(Path(name).is_file() for name in names)
    present = {".".join(p.parent.parts) for p in Path(package).rglob("__init__.py")}
    assert set(said["packages"]) == present
    assert all(list(Path(package).glob(pattern)) for pattern in said["package_data"][package])


def test_versions_and_entry_points_are_those_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in (*PACKAGES, "ibrobot_msgs"):
        manifest = ElementTree.parse(ROOT / "scripts/ros" / package / "package.xml")
        assert manifest.findtext("version") == project["version"]
    for package in PACKAGES:
        assert colcon_sees(package, monkeypatch)["version"] == project["version"]
    groups = colcon_sees("inference_service", monkeypatch)["entry_points"]
    backends = project["entry-points"]["inference_service.backends"]
    assert groups["inference_service.backends"] == [f"{name} = {where}" for name, where in backends.items()]
    assert groups["console_scripts"] == [f"{name} = {where}" for name, where in project["scripts"].items()]


def test_the_interface_package_names_the_definitions_of_the_wire() -> None:
    directory = ROOT / "scripts/ros/ibrobot_msgs"
    text = (directory / "CMakeLists.txt").read_text()
    for path in [*DEFINITIONS.rglob("*.msg"), *DEFINITIONS.rglob("*.action")]:
        name = path.relative_to(DEFINITIONS)
        assert (directory / name).samefile(path)
        assert f'"{name}"' in text
