"""Fixtures of the robot file's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robot_files import MINIMAL


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a robot file: the minimal one with one piece of text replaced, or a whole text."""

    def make(old: str = "", new: str = "", *, text: str = MINIMAL, name: str = "arm.yaml") -> Path:
        assert not old or text.count(old) == 1, f"{old!r} is not in the text exactly once"
        path = tmp_path / name
        path.write_text(text.replace(old, new) if old else text)
        return path

    return make
