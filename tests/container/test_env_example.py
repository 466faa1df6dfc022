"""``.env.example`` says everything that compose reads, and what it says is the default."""

from __future__ import annotations

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
EXAMPLE = REPO / ".env.example"
COMPOSE = [REPO / "compose.yaml", *sorted((REPO / "compose").rglob("*.yaml"))]
# Set otherwise than by default, so that the example works as copied: who sets nothing is told, or has a real robot.
CHOSEN = {"ROS_DOMAIN_ID", "ENGINE", "USE_SIM"}


def _example() -> dict[str, str]:
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _read_by_compose() -> dict[str, set[str]]:
    """Defaults by variable, as the compose files give them."""
    found: dict[str, set[str]] = {}
    for file in COMPOSE:
        for name, default in re.findall(r"\$\{([A-Z_]+)(?::-([^}]*))?", file.read_text()):
            found.setdefault(name, set()).add(default)
    return found


def test_every_variable_is_explained() -> None:
    assert _example().keys() == _read_by_compose().keys()


def test_what_it_sets_is_the_default() -> None:
    example = _example()
    for name, defaults in _read_by_compose().items():
        if name not in CHOSEN and example[name]:
            assert defaults == {example[name]}, name


def test_dockerfile_bake_and_script_name_the_same_bases() -> None:
    example = _example()
    for name in ("TRIXIE_IMAGE", "BOOKWORM_IMAGE", "ROS_IMAGE", "CANN_IMAGE"):
        assert f"ARG {name}={example[name]}\n" in (REPO / "docker/Dockerfile").read_text()
        assert f'variable "{name}" {{ default = "{example[name]}" }}' in (REPO / "docker/docker-bake.hcl").read_text()
    date = re.search(r"^base_date=(\d+)$", (REPO / "scripts/docker-engine").read_text(), re.M)
    assert date and {f"debian:{suite}-{date[1]}-slim" for suite in ("trixie", "bookworm")} == {
        example["TRIXIE_IMAGE"],
        example["BOOKWORM_IMAGE"],
    }
