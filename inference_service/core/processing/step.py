"""What a processing step is, and the registry in which steps are found by LeRobot's registry name.

A new step is one class::

    @register("pi0_new_line_processor")
    class NewLine(ProcessorStep):
        ...

that a module imported by :mod:`inference_service.core.processing` holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from inference_service.core.batch import Feature, Value
from inference_service.core.errors import UnsupportedStep
from inference_service.core.processor_files import StepEntry


@dataclass
class Transition:
    """What travels through a pipeline; steps change it in place. LeRobot's ``EnvTransition``, for inference.

    ``observation`` holds arrays and affine images by feature name; ``action`` is float (1, T, A), in a
    postprocessor only. ``complementary`` holds ``task`` (the prompt, a string and later a list of one).
    ``context`` is the request's own memory from preprocessor to postprocessor, so that no step keeps state.
    """

    observation: dict[str, Value] = field(default_factory=dict)
    action: Any = None
    complementary: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)


class ProcessorStep(ABC):
    """One step, built once from a processor file, then called per request from any thread.

    ``needs_prompt``: the step cannot work without ``task``.
    """

    needs_prompt: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> ProcessorStep:
        """Parse ``entry``; ``features`` are those that will flow through the pipeline.

        Raises:
            PolicyError: the entry cannot be executed exactly as LeRobot would.
        """

    @abstractmethod
    def __call__(self, transition: Transition) -> None:
        """Apply the step to ``transition``, in place."""


StepClass = TypeVar("StepClass", bound=type[ProcessorStep])

_STEPS: dict[str, type[ProcessorStep]] = {}


def register(name: str) -> Callable[[StepClass], StepClass]:
    """Class decorator: this class executes LeRobot's step ``name``."""

    def enter(cls: StepClass) -> StepClass:
        if name in _STEPS:
            raise ValueError(
                f"processing step '{name}' is claimed by {_STEPS[name].__qualname__} and {cls.__qualname__}"
            )
        _STEPS[name] = cls
        return cls

    return enter


def step_class(entry: StepEntry) -> type[ProcessorStep]:
    """The class that executes ``entry``.

    Raises:
        UnsupportedStep: none does; says which steps are known.
    """
    if entry.name not in _STEPS:
        raise UnsupportedStep(
            f"{entry.where}: no class here runs this step without torch (known: {', '.join(sorted(_STEPS))})"
        )
    return _STEPS[entry.name]


def check_options(entry: StepEntry, known: Iterable[str]) -> None:
    """Refuse options that this version would have to ignore: ignoring one changes the actions in silence.

    Raises:
        UnsupportedStep: naming the options.
    """
    unknown = sorted(set(entry.config) - set(known))
    if unknown:
        raise UnsupportedStep(
            f"{entry.where}: option {', '.join(unknown)} is newer than this installation; upgrade inference-service"
        )
