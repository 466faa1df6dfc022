"""LeRobot's processing steps executed in numpy. Importing this package registers every step."""

from inference_service.core.processing import basic, normalise
from inference_service.core.processing.pipeline import Pipeline
from inference_service.core.processing.step import ProcessorStep, Transition, register

__all__ = ["Pipeline", "ProcessorStep", "Transition", "basic", "normalise", "register"]
