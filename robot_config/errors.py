"""What can be wrong with a robot's configuration, as exceptions.

::

    RobotConfigError (ValueError)
    ├── ConfigError            the YAML file: one or more problems, each with file, line and key
    ├── SubstitutionError      a ``$(…)`` whose value is not to be had here
    ├── ContractError          a policy asks for what the contract does not give, or the other way round
    └── LaunchArgumentError    an argument of a launch is unknown, missing, wrong or cannot be served
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


class RobotConfigError(ValueError):
    """Base of the tree. The message names file, line, key and the fix."""


@dataclass(frozen=True)
class Problem:
    """One thing to correct. ``line`` counts from 1; 0 where the file as a whole is meant."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(RobotConfigError):
    """A robot file that cannot be used; ``problems`` holds every one that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class SubstitutionError(RobotConfigError):
    """A ``$(env …)``, ``$(optenv …)`` or ``$(find …)`` that cannot be resolved."""


class ContractError(RobotConfigError):
    """Policy and contract do not fit together; ``problem`` says where, if it is one line of the file."""

    def __init__(self, problem: Problem | str) -> None:
        self.problem = problem if isinstance(problem, Problem) else None
        super().__init__(str(problem))


class LaunchArgumentError(RobotConfigError):
    """A launch argument is unknown, missing, wrong, or asks for what this robot cannot do."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that ``word`` most likely stands for, or None."""
    choices = list(known)
    folded = {name.lower().replace("-", "_"): name for name in choices}
    exact = folded.get(word.lower().replace("-", "_"))
    if exact is not None:
        return exact
    found = get_close_matches(word, choices, n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence for an unknown ``word``: the nearest known name, or all of them."""
    choices = list(known)
    near = nearest(word, choices)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"known: {', '.join(choices)}" if choices else "none is defined"
