"""What an image takes from PyPI is pinned: the same commit gives the same image later."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    pytest.skip("reads pyproject.toml with tomllib", allow_module_level=True)

REPO = Path(__file__).resolve().parents[2]
EXTRAS = {
    "device": ["onnx", "language"],
    "cuda": ["lerobot"],
    "ascend": ["language"],
    "rknn": ["language"],
    "sim": ["sim"],
}


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def _pins(image: str) -> list[str]:
    lines = (REPO / "docker/constraints" / f"{image}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("image", EXTRAS)
def test_everything_asked_for_has_one_version(image: str) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[image]:
        wanted += project["optional-dependencies"][extra]
    pinned = {_name(line) for line in _pins(image)}
    assert {_name(requirement) for requirement in wanted} <= pinned


@pytest.mark.parametrize("image", EXTRAS)
def test_a_pin_is_a_version_and_stands_once(image: str) -> None:
    pins = _pins(image)
    assert not [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.+!]+(; .+)?", line)]
    plain = [_name(line) for line in pins if ";" not in line]
    assert len(plain) == len(set(plain))


def test_each_environment_is_built_with_its_pins() -> None:
    dockerfile = (REPO / "docker/Dockerfile").read_text()
    for image in EXTRAS:
        stage = dockerfile.split(f" AS env-{image}\n")[1].split("\nFROM ")[0]
        assert f"COPY docker/constraints/{image}.txt constraints.txt\n" in stage
        assert "pip-install" in stage
