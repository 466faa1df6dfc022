"""A processor file, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from inference_service.core.batch import Feature
from inference_service.core.errors import UnsupportedStep
from inference_service.core.processing.step import ProcessorStep, Transition, step_class
from inference_service.core.processor_files import ProcessorFile


class Pipeline:
    """The steps of a processor file in order. Holds no state of a request: any thread may call it.

    ``steps`` are those that run here. ``run``, where given, runs the whole file instead of them; what ``steps``
    demand of configuration, statistics and prompt is checked all the same.

    Raises:
        UnsupportedStep: a step that this installation cannot run, and no ``run``.
        MissingStatistics: a step that should normalise lacks the numbers.
        PolicyFolderError: a step's configuration or statistics are wrong.
    """

    def __init__(
        self, file: ProcessorFile, features: Mapping[str, Feature], run: Callable[[Transition], None] | None = None
    ) -> None:
        self.steps: list[ProcessorStep] = []
        self._run = run
        refused: UnsupportedStep | None = None
        for entry in file.steps:
            try:
                self.steps.append(step_class(entry).build(entry, features))
            except UnsupportedStep as error:
                refused = refused or error
        if refused is not None and run is None:
            raise refused

    @property
    def needs_prompt(self) -> bool:
        return any(step.needs_prompt for step in self.steps)

    def __call__(self, transition: Transition) -> None:
        """Run every step on ``transition``, in place."""
        if self._run is not None:
            self._run(transition)
            return
        for step in self.steps:
            step(transition)
