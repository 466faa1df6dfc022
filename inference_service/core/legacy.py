"""Checkpoints of LeRobot 0.3 and older, which keep their normalisation inside ``model.safetensors``.

Such a file holds ``normalize_inputs.buffer_observation_state.mean`` and the like, the dots of the feature's name turned
into "_". That cannot be undone (a camera may be called ``left_wrist``), so the name of each feature that config.json
declares is flattened in the same way and looked up. The formulas are today's, as in LeRobot's own migration: MIN_MAX
then divided by ``(max - min) + 1e-8``, which in float32 is ``max - min`` for every range from 0.25 on, and 1e-8 for 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from inference_service.core.batch import Feature
from inference_service.core.errors import MissingStatistics, PolicyFolderError
from inference_service.core.files import copy_tensors, read_some_tensors, tensor_names
from inference_service.core.policy_config import ACTION, NormMode, PolicyConfig
from inference_service.core.processing.normalise import STATISTICS
from inference_service.core.processor_files import ProcessorFile, StepEntry

_PREFIXES = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
_EPS = 1e-8
_log = logging.getLogger(__name__)

State = dict[str, NDArray[Any]]
Step = tuple[str, dict[str, Any]]


def is_legacy(weights: Path) -> bool:
    """Whether ``weights`` hold their own normalisation.

    Raises:
        PolicyFolderError: the file is corrupt.
    """
    return weights.exists() and any(name.startswith(_PREFIXES) for name in tensor_names(weights))


def write_without_statistics(weights: Path, target: Path) -> None:
    """``weights`` as today's policy classes expect them.

    Raises:
        PolicyFolderError: the file is corrupt.
    """
    copy_tensors(weights, target, leave_out=_PREFIXES)


def legacy_processors(weights: Path, config: PolicyConfig) -> tuple[ProcessorFile, ProcessorFile]:
    """The processor files that LeRobot would write today for the legacy checkpoint ``weights``, in memory.

    Raises:
        MissingStatistics: a declared feature is normalised, and its numbers are not there.
        PolicyFolderError: a family whose steps of that time are unknown, or no normalization_mapping.
    """
    if not config.normalization_mapping:
        raise PolicyFolderError(
            f"{weights.with_name('config.json')}: a legacy checkpoint without 'normalization_mapping'; add the modes "
            'that it was trained with, e.g. {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}'
        )
    inputs = _statistics(weights, config, config.input_features, "normalize_inputs.")
    outputs = _statistics(weights, config, config.output_features, "unnormalize_outputs.")
    device: Step = ("device_processor", {"device": "cpu", "float_dtype": None})
    before: list[Step] = [
        ("rename_observations_processor", {"rename_map": {}}),
        ("to_batch_processor", {}),
    ]
    normaliser = ("normalizer_processor", _normaliser(config, {**config.input_features, **config.output_features}))
    unnormaliser = ("unnormalizer_processor", _normaliser(config, config.output_features))
    _log.info("%s: a legacy checkpoint; normalisation taken from inside (%s)", weights, ", ".join(sorted(inputs)))
    return (
        _processor(weights, "policy_preprocessor", [*before, *_language(weights, config), device, normaliser], inputs),
        _processor(weights, "policy_postprocessor", [unnormaliser, device], outputs),
    )


def _language(weights: Path, config: PolicyConfig) -> list[Step]:
    """The steps on the prompt, which these families did inside the model then."""
    if not config.takes_prompt:
        return []
    raw = config.raw
    names = {"pi0": "google/paligemma-3b-pt-224", "smolvla": raw.get("vlm_model_name")}
    if config.type not in names:
        raise PolicyFolderError(
            f"{weights}: a legacy checkpoint of family '{config.type}', whose processing of that time is not known "
            "here; train or convert it with a LeRobot that writes policy_preprocessor.json (0.4 or later)"
        )
    tokenizer = {
        "tokenizer_name": names[config.type],
        "max_length": raw.get("tokenizer_max_length", 48),
        "task_key": "task",
        "padding_side": "right",
        "padding": "max_length" if config.type == "pi0" else raw.get("pad_language_to", "longest"),
        "truncation": True,
    }
    return [(f"{config.type}_new_line_processor", {}), ("tokenizer_processor", tokenizer)]


def _normaliser(config: PolicyConfig, features: Mapping[str, Feature]) -> dict[str, Any]:
    return {
        "eps": _EPS,
        "features": {name: {"type": f.type.value, "shape": list(f.shape)} for name, f in features.items()},
        "norm_map": {kind.value: mode.value for kind, mode in config.normalization_mapping.items()},
    }


def _processor(weights: Path, name: str, steps: list[Step], state: State) -> ProcessorFile:
    entries = []
    for index, (step, config) in enumerate(steps):
        own: State = state if "normalizer" in step else {}
        entries.append(StepEntry(index, step, config, weights, weights.name if own else None, own))
    return ProcessorFile(weights, name, tuple(entries))


def _statistics(weights: Path, config: PolicyConfig, features: Mapping[str, Feature], prefix: str) -> State:
    """``<feature>.<statistic>`` of every feature that is normalised."""
    keys = {}
    for name, feature in features.items():
        mode = config.normalization_mapping.get(feature.type, NormMode.IDENTITY)
        for statistic in STATISTICS.get(mode, ()):
            keys[f"{name}.{statistic}"] = f"{prefix}buffer_{name.replace('.', '_')}.{statistic}"
    found = read_some_tensors(weights, keys.values())
    for name, key in keys.items():
        if key not in found:
            raise MissingStatistics(_missing(weights, name, key))
    return {name: found[key] for name, key in keys.items()}


def _missing(weights: Path, name: str, key: str) -> str:
    statistic = name.rpartition(".")[2]
    others = [n for n in tensor_names(weights) if n.startswith(_PREFIXES) and n.endswith(f".{statistic}")]
    listed = ", ".join(f"'{other}'" for other in others[:6]) + (", …" if len(others) > 6 else "")
    word = "action" if name.startswith(ACTION) else "input"
    return (
        f"{weights}: a legacy checkpoint without '{key}', which the {word} '{name.rpartition('.')[0]}' of config.json "
        f"needs; it holds {listed or 'none of that kind'}. Statistics under another name (of one of several data sets) "
        "are not taken by guess: save the policy with processors and the statistics of your own data set"
    )
