"""X-VLA's own steps on images, and its embodiment number: ``lerobot/policies/xvla/processor_xvla.py`` (0.6.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_service.core.batch import AffineImage, Feature, Value
from inference_service.core.errors import InvalidObservation
from inference_service.core.files import check
from inference_service.core.image_norm import ImageNorm
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processor_files import StepEntry

DOMAIN_ID = "domain_id"
_IMAGES = "observation.images"
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_IMAGENET = ImageNorm("mean_std", tuple(map(float, _MEAN)), tuple(map(float, _STD)))


class _ImageStep(ProcessorStep):
    """Works on the images of ``image_keys``, or on all."""

    _options: tuple[str, ...] = ("image_keys",)

    def __init__(self, keys: list[str] | None, validate: bool = True) -> None:
        self._keys = keys
        self._validate = validate

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> _ImageStep:
        check_options(entry, cls._options)
        keys = entry.config.get("image_keys")
        validate = check(entry.config.get("validate_range", True), bool, f"{entry.where}.validate_range")
        return cls(None if keys is None else check(keys, list, f"{entry.where}.image_keys"), validate)

    def __call__(self, transition: Transition) -> None:
        keys = [k for k in transition.observation if k.startswith(_IMAGES)] if self._keys is None else self._keys
        for key in keys:
            if key in transition.observation:
                transition.observation[key] = self._image(key, transition.observation[key])

    @abstractmethod
    def _image(self, key: str, value: Value) -> Value: ...


@register("xvla_image_scale")
class ImageScale(_ImageStep):
    """From [0, 1] to [0, 255]."""

    def _image(self, key: str, value: Value) -> Value:
        return _floats(value) * 255


@register("xvla_image_to_float")
class ImageToFloat(_ImageStep):
    """From [0, 255] to [0, 1]; an image whose largest value is at most 1 stays as it is."""

    _options = ("image_keys", "validate_range")

    def _image(self, key: str, value: Value) -> Value:
        if _is_plain(value):
            return value
        floats = _floats(value)
        if floats.max() <= 1:
            return floats
        if self._validate:
            _require_range(key, floats, 255)
        return floats / 255


@register("xvla_imagenet_normalize")
class ImageNetNormalise(_ImageStep):
    """``(x - mean) / std`` with ImageNet's numbers, without eps."""

    def _image(self, key: str, value: Value) -> Value:
        if isinstance(value, AffineImage) and _is_plain(value):
            return value.with_norm(_IMAGENET)
        floats = _floats(value)
        _require_range(key, floats, 1)
        return (floats - _MEAN.astype(floats.dtype)[:, None, None]) / _STD.astype(floats.dtype)[:, None, None]


@register("xvla_add_domain_id")
class AddDomainId(ProcessorStep):
    """Says for which robot the policy acts: ``domain_id`` int64 (1,)."""

    def __init__(self, domain_id: int) -> None:
        self._domain_id = domain_id

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> AddDomainId:
        check_options(entry, ["domain_id"])
        return cls(check(entry.config.get("domain_id", 0), int, f"{entry.where}.domain_id"))

    def __call__(self, transition: Transition) -> None:
        transition.complementary[DOMAIN_ID] = np.array([self._domain_id], np.int64)


def _is_plain(value: Value) -> bool:
    """Pixels that stand for floats in [0, 1]."""
    return isinstance(value, AffineImage) and value.norm.kind == "identity"


def _floats(value: Value) -> Any:
    return value.materialise() if isinstance(value, AffineImage) else np.asarray(value)


def _require_range(key: str, floats: Any, high: float) -> None:
    if floats.min() < 0 or floats.max() > high:
        raise InvalidObservation(
            f"'{key}': values from {floats.min():.4f} to {floats.max():.4f}, expected 0 to {high}: the policy's steps "
            "normalise its images twice"
        )
