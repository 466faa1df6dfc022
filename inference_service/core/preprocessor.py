"""From what the robot gave to what the policy takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference_service.core.batch import (
    AffineImage,
    Batch,
    Feature,
    FeatureType,
    Float32,
    JpegImage,
    JpegPicture,
    Observation,
    UInt8,
    Value,
)
from inference_service.core.errors import InvalidObservation, MissingObservation
from inference_service.core.policy_config import STATE, ModelResize
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.processing import Pipeline, Transition
from inference_service.core.processing.basic import RenameObservations
from inference_service.core.resize import resize_bilinear, resize_with_pad

TASK = "task"
RAW_STATE = "raw_state"


@dataclass(frozen=True)
class Prepared:
    """A batch for the engine, and the ``context`` that its action's postprocessing needs: at least ``raw_state``,
    the (D,) float32 ``observation.state`` before normalisation, where the policy takes one."""

    batch: Batch
    context: dict[str, Any] = field(default_factory=dict)


class TensorPreprocessor:
    """Runs a policy's ``policy_preprocessor.json`` on observations. Keeps no state of a request."""

    def __init__(self, folder: PolicyFolder, shrink_images: bool = False) -> None:
        """
        ``shrink_images``: do here what the model does to its images first, where that makes them smaller
        (:attr:`~inference_service.core.policy_config.PolicyConfig.model_resize`). For an engine across a network that
        has said it takes them so.

        Raises:
            PolicyError: the pipeline cannot be executed exactly as LeRobot would.
        """
        self._config = folder.config
        self._features = folder.config.input_features
        self._pipeline = folder.pipelines[0]
        self._resize = folder.config.model_resize if shrink_images else None
        self._sources = _sources(self._features, self._pipeline)

    @property
    def features(self) -> Mapping[str, Feature]:
        """The policy's inputs by name."""
        return self._features

    def __call__(self, observation: Observation) -> Prepared:
        """Check, resize, normalise.

        ``observation``: images uint8 (H, W, 3) RGB or JPEG of any size, vectors float (D,), all finite, ``task`` a
        string where the policy takes a prompt. Keys that the policy does not know are ignored. Images are kept by
        reference (see :class:`~inference_service.core.batch.AffineImage`) unless they need resizing; a JPEG of the
        right size stays one.

        Raises:
            MissingObservation: a feature of the policy is absent, or the prompt that it needs.
            InvalidObservation: wrong type, shape or dtype, or not finite; a prompt for a policy that takes none, or
                one longer than the policy's limit.
        """
        transition = Transition()
        for name, feature in self._features.items():
            key = self._source(name, observation)
            value = _convert(key, feature, observation[key])
            transition.observation[key] = value
            if name == STATE and isinstance(value, np.ndarray):
                transition.context[RAW_STATE] = value[0].copy()
        prompt = self._prompt(observation)
        if prompt is not None:
            transition.complementary[TASK] = prompt
        self._pipeline(transition)
        if self._resize is not None:
            resize = self._resize
            transition.observation = {name: _shrunk(v, resize) for name, v in transition.observation.items()}
        return Prepared({**transition.observation, **transition.complementary}, transition.context)

    def _prompt(self, observation: Observation) -> str | None:
        value = observation.get(TASK)
        if value is None:
            if self._pipeline.needs_prompt:
                raise MissingObservation(
                    f"observation lacks '{TASK}': policy type '{self._config.type}' needs a prompt, the words of its "
                    "training data; set the dispatcher's parameter 'prompt', or send one with the goal"
                )
            return None
        if not isinstance(value, str):
            raise InvalidObservation(f"'{TASK}': expected a string, got {_describe(value)}")
        if value and not self._config.takes_prompt and not self._pipeline.needs_prompt:
            raise InvalidObservation(
                f"'{TASK}': policy type '{self._config.type}' takes no prompt, got {value!r:.60}; it would be ignored. "
                "Leave the prompt empty, or load a policy that understands language"
            )
        return value

    def _source(self, name: str, observation: Observation) -> str:
        for key in self._sources[name]:
            if observation.get(key) is not None:
                return key
        raise MissingObservation(
            f"observation lacks '{' or '.join(self._sources[name])}', which the policy needs; it has "
            f"{', '.join(sorted(observation)) or 'nothing'}. Add it to the robot's contract"
        )


def _sources(features: Mapping[str, Feature], pipeline: Pipeline) -> dict[str, tuple[str, ...]]:
    """The observation keys from which each feature may come: its own, or those renamed to it."""
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in features}
    for step in reversed(pipeline.steps):
        if isinstance(step, RenameObservations):
            names = {name: tuple(old for key in keys for old in _before(step, key)) for name, keys in names.items()}
    return names


def _before(step: RenameObservations, key: str) -> list[str]:
    renamed = [old for old, new in step.rename_map.items() if new == key]
    return renamed if key in step.rename_map else [*renamed, key]


def _convert(key: str, feature: Feature, value: Any) -> AffineImage | Float32:
    return _image(key, feature, value) if feature.type is FeatureType.VISUAL else _vector(key, feature, value)


def _image(key: str, feature: Feature, value: Any) -> AffineImage:
    channels, height, width = feature.shape
    if isinstance(value, JpegPicture):
        if (channels, height, width) == (3, value.height, value.width):
            return JpegImage(value)
        value = value.decode()
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != channels:
        raise InvalidObservation(f"'{key}': expected a uint8 array (H, W, {channels}) RGB, got {_describe(value)}")
    if 0 in value.shape:
        raise InvalidObservation(f"'{key}': the image is empty, {value.shape}")
    pixels: UInt8 = value
    return AffineImage(resize_bilinear(pixels, height, width))


def _shrunk(value: Value, resize: ModelResize) -> Value:
    """Only pixels that are not normalised: in others, black is not what the model pads with."""
    if not isinstance(value, AffineImage) or isinstance(value, JpegImage) or value.norm.kind != "identity":
        return value
    if resize.height * resize.width >= value.pixels.shape[0] * value.pixels.shape[1]:
        return value
    return AffineImage(resize_with_pad(value.pixels, resize.height, resize.width, resize.centred))


def _vector(key: str, feature: Feature, value: Any) -> Float32:
    """Shape (1, *feature.shape), a view of ``value`` where that is contiguous float32 already."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != feature.shape:
        raise InvalidObservation(f"'{key}': expected a float array {feature.shape}, got {_describe(value)}")
    with np.errstate(over="ignore"):
        array: Float32 = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array)).tolist()
        raise InvalidObservation(f"'{key}': not finite at {bad[:8]}; check the sensor behind it")
    return array[None]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r:.60}"
