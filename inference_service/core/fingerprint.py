"""One number by which device and engine see that they hold the same policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

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
_ORDERED_FIELDS = ("input_features", "output_features")


def fingerprint(config: Mapping[str, Any], *processors: ProcessorFile) -> str:
    """SHA-256 (hex) over what decides a policy's meaning, its weights apart: ``config.json`` without the fields
    that a deployment may change, the processor files and the statistics. Formatting does not count, the order of
    features (of cameras) does."""
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
    digest.update(_canonical([step.name, config]))
    for name in sorted(step.state):
        value = step.state[name]
        # One byte order on every machine.
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        digest.update(_canonical([name, value.dtype.kind, value.dtype.itemsize, list(value.shape)]))
        digest.update(data.tobytes())


def _canonical(value: Any) -> bytes:
    """JSON text that does not depend on formatting, closed so that neighbours cannot run together."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"
