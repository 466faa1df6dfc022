"""A processor file, ready to run."""

from __future__ import annotations

from collections.abc import Mapping

from inference_service.core.batch import Feature
from inference_service.core.processing.step import ProcessorStep, Transition, step_class
from inference_service.core.processor_files import ProcessorFile


class Pipeline:
    """The steps of a processor file in order. Holds no state of a request: any thread may call it.

    Raises:
        UnsupportedStep: a step that this installation cannot run.
        MissingStatistics: a step that should normalise lacks the numbers.
        PolicyFolderError: a step's configuration or statistics are wrong.
    """

    def __init__(self, file: ProcessorFile, features: Mapping[str, Feature]) -> None:
        self.steps: list[ProcessorStep] = [step_class(entry).build(entry, features) for entry in file.steps]

    @property
    def needs_prompt(self) -> bool:
        return any(step.needs_prompt for step in self.steps)

    def __call__(self, transition: Transition) -> None:
        """Run every step on ``transition``, in place."""
        for step in self.steps:
            step(transition)
