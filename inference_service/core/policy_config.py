"""``config.json`` of a LeRobot policy, as far as serving needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from inference_service.core.batch import Feature, FeatureType
from inference_service.core.errors import PolicyFolderError
from inference_service.core.files import check, get, read_json_object

ACTION = "action"
STATE = "observation.state"
# Families that read no language, neither in their processors nor in the model.
_WITHOUT_LANGUAGE = frozenset({"act", "diffusion", "tdmpc", "vqbet"})
_EMPTY_CAMERA = "observation.images.empty_camera_"
# Families whose model fits its images into a square, black on both sides.
_CENTRED = frozenset({"pi0", "pi05", "pi0_fast"})
_MAX_SIDE = 4096
MAX_ELEMENTS = 2**28
MAX_CHUNK = 100_000


class NormMode(str, Enum):
    """LeRobot's ``NormalizationMode``."""

    MIN_MAX = "MIN_MAX"
    MEAN_STD = "MEAN_STD"
    IDENTITY = "IDENTITY"
    QUANTILES = "QUANTILES"
    QUANTILE10 = "QUANTILE10"


# What names the length of a chunk, where it is another key than in most families.
_CHUNK = {"fastwam": ("action_horizon",), "pi0_fast": ("n_action_steps", "chunk_size")}


@dataclass(frozen=True)
class ModelResize:
    """What a model does to its images first: fit them into (height, width), their proportions kept. The rest is black:
    on both sides where ``centred``, else on the left and the top."""

    height: int
    width: int
    centred: bool


@dataclass(frozen=True)
class PolicyConfig:
    """The policy's shape. Features keep the order of the file: the order of cameras is the model's.

    ``empty_camera_N``, LeRobot's name for a view that this robot lacks, is no input: the model itself puts a blank
    there.
    """

    type: str
    input_features: Mapping[str, Feature]
    output_features: Mapping[str, Feature]
    chunk_size: int
    n_action_steps: int
    n_obs_steps: int
    normalization_mapping: Mapping[FeatureType, NormMode]
    raw: Mapping[str, Any]

    @property
    def action_dim(self) -> int:
        return self.output_features[ACTION].shape[0]

    @property
    def model_resize(self) -> ModelResize | None:
        """None where the model takes images as they are, or resizes them in another way.

        Raises:
            PolicyFolderError: the size is none.
        """
        if self.type in _CENTRED:
            key, size = "image_resolution", self.raw.get("image_resolution", [224, 224])
        elif self.type == "smolvla":
            key, size = "resize_imgs_with_padding", self.raw.get("resize_imgs_with_padding", [512, 512])
        else:
            return None
        if size is None:
            return None
        sizes = check(size, list, f"config.json: key '{key}'")
        if len(sizes) != 2 or not all(isinstance(n, int) and 1 <= n <= _MAX_SIDE for n in sizes):
            raise PolicyFolderError(f"config.json: key '{key}' must be two sizes up to {_MAX_SIDE}, found {size!r:.60}")
        # SmolVLA writes (width, height).
        height, width = sizes if self.type in _CENTRED else sizes[::-1]
        return ModelResize(height, width, self.type in _CENTRED)

    @property
    def takes_prompt(self) -> bool:
        """False where the family is known to have no use for a prompt."""
        return self.type not in _WITHOUT_LANGUAGE


def read_config(path: Path) -> PolicyConfig:
    """Parse and check ``config.json`` at ``path``.

    Raises:
        PolicyFolderError: what is missing or wrong, with file, key and fix.
    """
    raw = read_json_object(path)
    where = str(path)
    if "type" not in raw:
        raise PolicyFolderError(f"{where}: key 'type' is missing; this is not the config.json of a LeRobot policy")
    outputs = parse_features(get(raw, "output_features", dict, where), f"{where}: output_features")
    inputs = parse_features(get(raw, "input_features", dict, where), f"{where}: input_features")
    if raw.get("empty_cameras"):
        inputs = {name: feature for name, feature in inputs.items() if not name.startswith(_EMPTY_CAMERA)}
    if not inputs:
        raise PolicyFolderError(f"{where}: key 'input_features' is empty; a policy must observe something")
    action = outputs.get(ACTION)
    if action is None or action.type is not FeatureType.ACTION or len(action.shape) != 1:
        raise PolicyFolderError(f"{where}: key 'output_features.action' must be an ACTION with shape [action_dim]")
    chunk_size = _chunk_size(raw, where)
    return PolicyConfig(
        type=get(raw, "type", str, where),
        input_features=inputs,
        output_features=outputs,
        chunk_size=chunk_size,
        n_action_steps=_count(raw, "n_action_steps", where, default=chunk_size),
        n_obs_steps=_count(raw, "n_obs_steps", where, default=1),
        normalization_mapping=parse_norm_map(raw.get("normalization_mapping") or {}, f"{where}: normalization_mapping"),
        raw=raw,
    )


def parse_features(value: Any, where: str) -> dict[str, Feature]:
    """``{name: {"type": ..., "shape": [...]}}``, order kept; images are (C, H, W)."""
    features = {}
    for name, entry in check(value, dict, where).items():
        place = f"{where}.{name}"
        entry = check(entry, dict, place)
        kind = _member(FeatureType, get(entry, "type", str, place), f"{place}.type")
        shape = tuple(check(size, int, f"{place}.shape") for size in get(entry, "shape", list, place))
        if not shape or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise PolicyFolderError(
                f"{place}.shape: {list(shape)} must be positive sizes, {MAX_ELEMENTS} values at most"
            )
        if kind is FeatureType.VISUAL and len(shape) != 3:
            raise PolicyFolderError(f"{place}.shape: an image is [channels, height, width], found {list(shape)}")
        features[name] = Feature(name, kind, shape)
    return features


def parse_norm_map(value: Any, where: str) -> dict[FeatureType, NormMode]:
    """``{feature type: normalisation mode}``."""
    return {
        _member(FeatureType, kind, where): _member(NormMode, mode, f"{where}.{kind}")
        for kind, mode in check(value, dict, where).items()
    }


def _member(kind: type[Any], value: Any, where: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise PolicyFolderError(f"{where}: {value!r:.80} is unknown; known: {known}") from None


def _chunk_size(raw: Mapping[str, Any], where: str) -> int:
    """Length of what ``predict_action_chunk`` returns: ``chunk_size``, or where a family has none ``n_action_steps``
    (diffusion) or ``action_chunk_size`` (VQ-BeT). TD-MPC's is what it executes before it plans again."""
    if raw.get("type") == "tdmpc":
        steps = _count(raw, "n_action_steps", where, default=1)
        return max(steps, _count(raw, "n_action_repeats", where, default=1))
    for key in _CHUNK.get(str(raw.get("type")), ("chunk_size", "n_action_steps", "action_chunk_size")):
        if raw.get(key) is not None:
            return _count(raw, key, where, default=0)
    raise PolicyFolderError(f"{where}: neither 'chunk_size' nor 'n_action_steps'; only chunked policies are served")


def _count(raw: Mapping[str, Any], key: str, where: str, default: int) -> int:
    value = raw.get(key)
    if value is None:
        return default
    if not 1 <= check(value, int, f"{where}: key '{key}'") <= MAX_CHUNK:
        raise PolicyFolderError(f"{where}: key '{key}' must be from 1 to {MAX_CHUNK}, found {value}")
    return int(value)
