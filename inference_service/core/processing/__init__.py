"""LeRobot's processing steps executed in numpy. Importing this package registers every step."""

from inference_service.core.processing import basic, language, normalise, relative, vla, xvla
from inference_service.core.processing.pipeline import Pipeline
from inference_service.core.processing.step import ProcessorStep, Transition, register

__all__ = [
    "Pipeline",
    "ProcessorStep",
    "Transition",
    "basic",
    "language",
    "normalise",
    "register",
    "relative",
    "vla",
    "xvla",
]
