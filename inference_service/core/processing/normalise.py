"""LeRobot's normaliser and unnormaliser in numpy, equal bit for bit.

Formulas and order of operations are those of ``lerobot/processor/normalize_processor.py`` (0.6.1), all in
the dtype of the value (float32 unless a ``device_processor`` casts before)::

    mode        forward                       inverse
    MEAN_STD    (x - mean) / (std + eps)      x * std + mean
    MIN_MAX     2 * (x - min) / d - 1         (x + 1) / 2 * d + min     d = max - min, or eps where that is 0
    QUANTILES   2 * (x - q01) / d - 1         (x + 1) * d / 2 + q01     d = q99 - q01, same rule
    QUANTILE10  the same with q10 and q90
    IDENTITY    x                             x

LeRobot leaves a feature alone whose statistics are missing. Here that is an error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import AffineImage, Feature, FeatureType, Float32
from inference_service.core.errors import MissingStatistics, PolicyFolderError
from inference_service.core.files import check
from inference_service.core.image_norm import ImageNorm, NormKind
from inference_service.core.policy_config import ACTION, NormMode, parse_features, parse_norm_map
from inference_service.core.processing.step import ProcessorStep, Transition, check_options, register
from inference_service.core.processor_files import StepEntry

_log = logging.getLogger(__name__)
Array = NDArray[Any]

STATISTICS = {
    NormMode.MEAN_STD: ("mean", "std"),
    NormMode.MIN_MAX: ("min", "max"),
    NormMode.QUANTILES: ("q01", "q99"),
    NormMode.QUANTILE10: ("q10", "q90"),
}


@dataclass(frozen=True, eq=False)
class FeatureNorm:
    """Normalisation of one feature. ``low`` and ``high`` are float32: mean and std, min and max, or quantiles."""

    mode: NormMode
    low: Float32
    high: Float32
    eps: float

    def forward(self, value: AffineImage | Array) -> AffineImage | Array:
        """Robot units to the model's. An affine image stays one."""
        if isinstance(value, AffineImage):
            if value.norm.kind == "identity":
                return value.with_norm(self._image_norm)
            value = value.materialise()
        low, scale = self._low_and_scale(value.dtype)
        if self.mode is NormMode.MEAN_STD:
            result: Array = (value - low) / scale
        else:
            result = 2 * (value - low) / scale - 1
        return result

    def inverse(self, value: AffineImage | Array) -> Array:
        """The model's units to the robot's."""
        if isinstance(value, AffineImage):
            value = value.materialise()
        low, scale = self._low_and_scale(value.dtype)
        if self.mode is NormMode.MEAN_STD:
            result: Array = value * self.high.astype(value.dtype, copy=False) + low
        elif self.mode is NormMode.MIN_MAX:
            result = (value + 1) / 2 * scale + low
        else:
            result = (value + 1) * scale / 2 + low
        return result

    def _low_and_scale(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        return self._single if dtype == np.float32 else self._in(dtype)

    @cached_property
    def _single(self) -> tuple[Array, Array]:
        return self._in(np.dtype(np.float32))

    def _in(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        low, high = self.low.astype(dtype, copy=False), self.high.astype(dtype, copy=False)
        eps = dtype.type(self.eps)
        if self.mode is NormMode.MEAN_STD:
            return low, high + eps
        span = high - low
        return low, np.where(span == 0, eps, span)

    @cached_property
    def _image_norm(self) -> ImageNorm:
        low, scale = self._low_and_scale(np.dtype(np.float32))
        kind: NormKind = "mean_std" if self.mode is NormMode.MEAN_STD else "min_max"
        return ImageNorm(kind, tuple(map(float, low.ravel())), tuple(map(float, scale.ravel())))


class _Normalisation(ProcessorStep):
    """Applies each feature's transform, in the direction that the subclass names."""

    _direction: ClassVar[str]

    def __init__(self, norms: Mapping[str, FeatureNorm]) -> None:
        self._apply = {name: getattr(norm, self._direction) for name, norm in norms.items()}

    @classmethod
    def build(cls, entry: StepEntry, features: Mapping[str, Feature]) -> _Normalisation:
        check_options(entry, ["eps", "features", "norm_map", "normalize_observation_keys"])
        config = entry.config
        own = parse_features(config.get("features") or {}, f"{entry.where}.features")
        modes = parse_norm_map(config.get("norm_map") or {}, f"{entry.where}.norm_map")
        only = config.get("normalize_observation_keys")
        eps = config.get("eps", 1e-8)
        if not isinstance(eps, (int, float)) or not math.isfinite(eps):
            raise PolicyFolderError(f"{entry.where}.eps: {eps!r:.40} must be a finite number")
        if only is not None:
            only = check(only, list, f"{entry.where}.normalize_observation_keys")
        _require_listed(entry, features, own, modes, only)
        norms = {}
        for name, kind in _normalised(own, features, only).items():
            mode = modes.get(kind, NormMode.IDENTITY)
            if mode is not NormMode.IDENTITY:
                norms[name] = _feature_norm(entry, features[name], mode, float(eps))
        return cls(norms)

    def __call__(self, transition: Transition) -> None:
        for name, apply in self._apply.items():
            if name == ACTION:
                if transition.action is not None:
                    transition.action = apply(transition.action)
            elif name in transition.observation:
                transition.observation[name] = apply(transition.observation[name])


@register("normalizer_processor")
class Normalise(_Normalisation):
    _direction = "forward"


@register("unnormalizer_processor")
class Unnormalise(_Normalisation):
    _direction = "inverse"


def _normalised(
    own: Mapping[str, Feature], flowing: Mapping[str, Feature], only: list[str] | None
) -> dict[str, FeatureType]:
    """Which of the ``flowing`` features the step touches, and as what: LeRobot's rules. An action always is."""
    touched = {
        name: own[name].type
        for name in flowing
        if name in own and own[name].type is not FeatureType.ACTION and (only is None or name in only)
    }
    if ACTION in flowing:
        touched[ACTION] = FeatureType.ACTION
    return touched


def _require_listed(
    entry: StepEntry,
    flowing: Mapping[str, Feature],
    own: Mapping[str, Feature],
    modes: Mapping[FeatureType, NormMode],
    only: list[str] | None,
) -> None:
    """Refuse to leave an input alone whose type the step normalises, only because the step does not list it."""
    for name, feature in flowing.items():
        mode = modes.get(feature.type, NormMode.IDENTITY)
        if mode is not NormMode.IDENTITY and name != ACTION and name not in own and only is None:
            raise MissingStatistics(
                f"{entry.where}.features: '{name}' is not listed, although {feature.type.value} is normalised by "
                f"{mode.value}; it lists {', '.join(own) or 'nothing'}. (LeRobot's migration of old checkpoints writes "
                "a dot for every '_' in a name.) Save the processors again with this policy's own features"
            )


def _feature_norm(entry: StepEntry, feature: Feature, mode: NormMode, eps: float) -> FeatureNorm:
    low, high = (_statistic(entry, feature, mode, name) for name in STATISTICS[mode])
    _check_spread(entry, feature, mode, high if mode is NormMode.MEAN_STD else high - low, eps)
    return FeatureNorm(mode, low, high, eps)


def _check_spread(entry: StepEntry, feature: Feature, mode: NormMode, spread: Float32, eps: float) -> None:
    """Refuse what no dataset gives; say which values the policy has never seen move: LeRobot divides them by ``eps``.

    Raises:
        PolicyFolderError: a standard deviation below 0, or a largest value below the smallest.
    """
    names = " and ".join(f"'{feature.name}.{name}'" for name in STATISTICS[mode])
    negative, flat = (np.flatnonzero(where).tolist() for where in (spread < 0, spread == 0))
    if negative:
        raise PolicyFolderError(
            f"{entry.state_source}: {names} leave a range below 0 at {negative[:8]}; compute the dataset's statistics "
            "again and save the processors with them"
        )
    if flat and feature.type is not FeatureType.ACTION:
        _log.warning(
            "%s: %s have no range at %s: the data never moved there, and the policy of a robot that does is fed the "
            "difference divided by %g. Keep it still, or train without it",
            *(entry.state_source, names, flat[:8], eps),
        )


def _without_padding(entry: StepEntry, feature: Feature, value: Float32) -> Float32:
    """Evo-1 declares its state and action as wide as its model, and pads their statistics; ours are the robot's."""
    declared = (entry.config.get("features") or {}).get(feature.name, {}).get("shape")
    if value.ndim == 1 and len(feature.shape) == 1 and feature.shape[0] < value.size and declared == [value.size]:
        return value[: feature.shape[0]]
    return value


def _statistic(entry: StepEntry, feature: Feature, mode: NormMode, name: str) -> Float32:
    """One statistic as float32 in the feature's shape; images (C, 1, 1)."""
    key = f"{feature.name}.{name}"
    if key not in entry.state:
        raise MissingStatistics(
            f"{entry.state_source}: no '{key}', which {mode.value} normalisation of '{feature.name}' needs; save the "
            f"processors with the dataset's statistics, or set the mode of {feature.type.value} to IDENTITY"
        )
    shape = (feature.shape[0], 1, 1) if feature.type is FeatureType.VISUAL else feature.shape
    value = np.asarray(entry.state[key], np.float32)
    value = _without_padding(entry, feature, value)
    if value.size != math.prod(shape):
        raise PolicyFolderError(
            f"{entry.state_source}: '{key}' has shape {list(value.shape)}, expected {list(shape)}; "
            "save the processors with the statistics of this policy's own dataset"
        )
    if not np.isfinite(value).all():
        raise PolicyFolderError(f"{entry.state_source}: '{key}' is not finite; compute the dataset's statistics again")
    return value.reshape(shape)
