"""A strict stand-in of ROS 2's ``launch``: the signatures that launch 3.4 (jazzy) has, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class LaunchContext:
    def __init__(self, *, argv: Iterable[str] | None = None) -> None:
        self.argv = list(argv or ())
        self.launch_configurations: dict[str, str] = {}


class LaunchDescription:
    def __init__(self, initial_entities: Iterable[Any] | None = None) -> None:
        self.entities = list(initial_entities or ())


def require_text(value: object, what: str) -> None:
    """What launch calls SomeSubstitutionsType, in the form used here."""
    if not isinstance(value, str):
        raise TypeError(f"{what} expected text or substitutions, got {value!r}")
