"""LeRobot's housekeeping steps: renaming, batch axis, device and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_service.core.batch import AffineImage, Feature, Value, materialise
from inference_service.core.errors import UnsupportedStep
from inference_service.core.files import check
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processor_files import StepEntry


@register("rename_observations_processor")
class RenameObservations(ProcessorStep):
    """Renames observation keys; keys without a new name keep theirs."""

    def __init__(self, rename_map: Mapping[str, str]) -> None:
        self.rename_map = dict(rename_map)

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> RenameObservations:
        check_options(entry, ["rename_map"])
        where = f"{entry.where}.rename_map"
        rename_map = check(entry.config.get("rename_map") or {}, dict, where)
        return cls({old: check(new, str, f"{where}.{old}") for old, new in rename_map.items()})

    def __call__(self, transition: Transition) -> None:
        transition.observation = {self.rename_map.get(key, key): v for key, v in transition.observation.items()}


@register("to_batch_processor")
class ToBatch(ProcessorStep):
    """Adds the batch axis where it lacks, and wraps the prompt in a list."""

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> ToBatch:
        check_options(entry, [])
        return cls()

    def __call__(self, transition: Transition) -> None:
        for key in ("observation.state", "observation.environment_state"):
            value = transition.observation.get(key)
            if isinstance(value, np.ndarray) and value.ndim == 1:
                transition.observation[key] = value[None]
        task = transition.complementary.get("task")
        if isinstance(task, str):
            transition.complementary["task"] = [task]


_FLOATS: dict[str, type[np.floating[Any]]] = {
    "float16": np.float16,
    "half": np.float16,
    "float32": np.float32,
    "float": np.float32,
    "float64": np.float64,
    "double": np.float64,
}


@register("device_processor")
class Device(ProcessorStep):
    """Where tensors live is the engine's business; only the cast of floats remains."""

    def __init__(self, dtype: type[np.floating[Any]] | None) -> None:
        self.dtype = dtype

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> Device:
        check_options(entry, ["device", "float_dtype"])
        name = entry.config.get("float_dtype")
        if name is not None and name not in _FLOATS:
            raise UnsupportedStep(
                f"{entry.where}: float_dtype {name!r:.40} cannot be computed here; known: {', '.join(_FLOATS)}"
            )
        return cls(None if name is None else _FLOATS[name])

    def __call__(self, transition: Transition) -> None:
        if self.dtype is None:
            return
        transition.observation = {key: self._cast(value) for key, value in transition.observation.items()}
        if transition.action is not None:
            transition.action = self._cast(transition.action)

    def _cast(self, value: Value) -> Value:
        if isinstance(value, AffineImage):
            # An affine image stands for float32, so only another dtype makes numbers of it.
            return value if self.dtype is np.float32 else materialise(value).astype(self.dtype)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return value.astype(self.dtype, copy=False)
        return value
