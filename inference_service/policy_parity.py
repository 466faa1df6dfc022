"""Whether two backends compute the same: observations, the noise that both start from, and the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from inference_service.backends import registry
from inference_service.backends.compiled.pi05_adapter import BATCH_NOISE, MAX_ACTION_DIM
from inference_service.core.batch import Batch, FeatureType, Float32, materialise
from inference_service.core.engine import PureInferenceEngine, check_batch
from inference_service.core.errors import InvalidObservation
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TASK, TensorPreprocessor

NOISY = ("pi05",)
"""Families of compiled backends that denoise: both sides must be given the same noise."""


def random_observations(folder: PolicyFolder, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Of the shapes that config.json gives, pictures as a camera sends them."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        observation: dict[str, Any] = {TASK: "pick up the cube"} if folder.config.type != "act" else {}
        for name, feature in folder.config.input_features.items():
            if feature.type is FeatureType.VISUAL:
                channels, height, width = feature.shape
                observation[name] = rng.integers(0, 256, (height, width, channels), np.uint8)
            elif feature.type is not FeatureType.LANGUAGE:
                observation[name] = rng.standard_normal(feature.shape).astype(np.float32)
        yield observation


def recorded_observations(file: Path, count: int) -> Iterator[dict[str, Any]]:
    """At most ``count``, evenly over the recording.

    Raises:
        InvalidObservation: not such a file.
    """
    recorded = _arrays(file)
    lengths = {len(array) for array in recorded.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidObservation(f"{file}: its arrays must have one equal number of rows, found {sorted(lengths)}")
    rows = lengths.pop()
    for row in np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(int)):
        yield {name: str(array[row]) if name == TASK else array[row] for name, array in recorded.items()}


def _arrays(file: Path) -> Mapping[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InvalidObservation(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, BadZipFile) as error:
        raise InvalidObservation(f"{file}: no .npz of plain arrays ({error}); make it with numpy.savez") from error


def batches_of(folder: PolicyFolder, observations: Iterator[dict[str, Any]], seed: int) -> list[Batch]:
    """``observations`` as the policy takes them, each with noise of its own where the family starts from noise."""
    preprocess = TensorPreprocessor(folder)
    batches = [dict(preprocess(observation).batch) for observation in observations]
    if folder.config.type in NOISY:
        width = int(folder.config.raw.get("max_action_dim") or MAX_ACTION_DIM)
        rng = np.random.default_rng(seed)
        for batch in batches:
            batch[BATCH_NOISE] = rng.standard_normal((1, folder.config.chunk_size, width), np.float32)
    return batches


def chunks_of(folder: PolicyFolder, device: str, batches: Sequence[Batch]) -> list[Float32]:
    """What ``device`` (as in ``device:=``) answers to ``batches``; loaded for it and closed again.

    Raises:
        InferenceServiceError: it does not load, or does not answer.
    """
    backend, runtime_device = registry.resolve(device, folder)
    if backend == "lerobot" and folder.config.type in NOISY:
        return _lerobot_chunks(folder, runtime_device, batches)
    engine = PureInferenceEngine(registry.load_policy(folder, device))
    try:
        return [engine.infer(batch).action for batch in batches]
    finally:
        engine.close()


def _lerobot_chunks(folder: PolicyFolder, device: str, batches: Sequence[Batch]) -> list[Float32]:
    """LeRobot's own class, its noise given: its generator draws other numbers than NumPy's."""
    import torch

    from inference_service.backends.lerobot_torch import load_lerobot_policy

    policy = load_lerobot_policy(folder, device)
    chunks: list[Float32] = []
    for batch in batches:
        check_batch(batch, folder.config.input_features)
        arrays = {name: np.array(materialise(value)) for name, value in batch.items() if not isinstance(value, list)}
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        noise = tensors.pop(BATCH_NOISE)
        with torch.inference_mode():
            chunks.append(policy.predict_action_chunk(tensors, noise=noise)[0].float().cpu().numpy())
    return chunks


@dataclass
class Difference:
    """Of chunks from a reference's: largest and mean absolute difference, smallest cosine."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    cosine: float = 1.0

    def add(self, chunk: Float32, reference: Float32) -> None:
        """Count one pair of chunks, (chunk_size, action_dim)."""
        wanted, got = reference.astype(np.float64).ravel(), chunk.astype(np.float64).ravel()
        error = np.abs(got - wanted)
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.sum())
        self.count += error.size
        scale = float(np.linalg.norm(wanted) * np.linalg.norm(got))
        if scale > 0:
            self.cosine = min(self.cosine, float(wanted @ got) / scale)

    @property
    def mean(self) -> float:
        return self.total / self.count
