"""One number by which device and engine see that they hold the same policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference_service.core.errors import PolicyFolderError
from inference_service.core.processing.language import tokenizer_directory
from inference_service.core.processing.tokenizer import tokenizer_identity
from inference_service.core.processor_files import ProcessorFile, StepEntry

# What a deployment may change without changing the policy. Backbone weights are the start of a training,
# and removed by whoever loads a policy without a network.
_DEPLOYMENT_FIELDS = {
    "device",
    "use_amp",
    "pretrained_path",
    "pretrained_revision",
    "pretrained_backbone_weights",
    "repo_id",
    "push_to_hub",
    "tags",
    "license",
    "private",
}
_DEPLOYMENT_PREFIX = "compile"
_TOKENIZER_STEP = "tokenizer_processor"
_ORDERED_FIELDS = ("input_features", "output_features")


def fingerprint(config: Mapping[str, Any], *processors: ProcessorFile) -> str:
    """SHA-256 (hex) over what decides a policy's meaning, its weights apart: ``config.json`` without the fields
    that a deployment may change, the processor files, the statistics and the tokenizers. Formatting does not count,
    the order of features (of cameras) does. A tokenizer that is not there counts too: a directory without one is
    another policy's than one with it.

    Raises:
        PolicyFolderError: a tokenizer's file is corrupt.
    """
    digest = hashlib.sha256()
    digest.update(_canonical(_config(config)))
    for processor in processors:
        for step in processor.steps:
            _add_step(digest, step)
    return digest.hexdigest()


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        key: value
        for key, value in config.items()
        if key not in _DEPLOYMENT_FIELDS and not key.startswith(_DEPLOYMENT_PREFIX)
    }
    return kept | {key: list(kept[key].items()) for key in _ORDERED_FIELDS}


def _add_step(digest: Any, step: StepEntry) -> None:
    config = {key: value for key, value in step.config.items() if (step.name, key) != ("device_processor", "device")}
    if step.name == _TOKENIZER_STEP and Path(str(config.get("tokenizer_name"))).is_absolute():
        config["tokenizer_name"] = None  # where one machine keeps its tokenizer; its contents count below
    digest.update(_canonical([step.name, config]))
    for name in sorted(step.state):
        value = step.state[name]
        # One byte order on every machine.
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        digest.update(_canonical([name, value.dtype.kind, value.dtype.itemsize, list(value.shape)]))
        digest.update(data.tobytes())
    if step.name == _TOKENIZER_STEP:
        digest.update(_canonical(["tokenizer", _tokenizer(step)]))


def _tokenizer(step: StepEntry) -> list[str | None]:
    try:
        directory = tokenizer_directory(step)
    except PolicyFolderError:
        return []
    return tokenizer_identity(directory)


def _canonical(value: Any) -> bytes:
    """JSON text that does not depend on formatting, closed so that neighbours cannot run together."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"
