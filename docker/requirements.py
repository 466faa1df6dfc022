"""Print what pyproject.toml asks for, so that a layer of dependencies can be built without our code.

Usage: python3 docker/requirements.py [extra …] > requirements.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The requirement lines of the project and of ``extras``; KeyError for an extra that is not there."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lines: list[str] = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])) + "\n")
