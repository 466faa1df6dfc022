"""Policy folders for tests: real ones made by LeRobot, and the same layout written by hand without it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Stats = dict[str, dict[str, np.ndarray]]
Norm = str | Mapping[str, str]


def features_of(
    image: tuple[int, int], cameras: Sequence[str], state_dim: int, action_dim: int
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Input and output features as they stand in config.json."""
    inputs: dict[str, dict[str, Any]] = {
        f"observation.images.{camera}": {"type": "VISUAL", "shape": [3, *image]} for camera in cameras
    }
    inputs = {"observation.state": {"type": "STATE", "shape": [state_dim]}, **inputs}
    return inputs, {"action": {"type": "ACTION", "shape": [action_dim]}}


def random_stats(features: Mapping[str, Mapping[str, Any]], seed: int = 0) -> Stats:
    """Dataset statistics as LeRobot computes them, with one dimension that never moved in every vector."""
    rng = np.random.default_rng(seed)
    stats: Stats = {}
    for name, feature in features.items():
        visual = feature["type"] == "VISUAL"
        shape = (3, 1, 1) if visual else tuple(feature["shape"])
        low, high = (0.0, 1.0) if visual else (-3.0, 3.0)
        quantiles = np.sort(rng.uniform(low, high, (7, *shape)), axis=0).astype(np.float32)
        names = ("min", "q01", "q10", "q50", "q90", "q99", "max")
        own = dict(zip(names, quantiles, strict=True))
        own["mean"] = quantiles[3] + np.float32(0.01)
        own["std"] = rng.uniform(0.1, 0.5, shape).astype(np.float32)
        if not visual:
            for statistic in own.values():
                statistic[-1] = 0.25
            own["std"][-1] = 0
        stats[name] = own | {"count": np.full((1, 1, 1) if visual else (1,), 1000, np.float32)}
    return stats


def norm_mapping(norm: Norm) -> dict[str, str]:
    return dict.fromkeys(("VISUAL", "STATE", "ACTION"), norm) if isinstance(norm, str) else dict(norm)


def make_act_folder(
    path: Path,
    *,
    image: tuple[int, int] = (96, 128),
    cameras: Sequence[str] = ("top", "wrist"),
    state_dim: int = 6,
    action_dim: int = 6,
    chunk_size: int = 20,
    norm: Norm = "MEAN_STD",
    dim_model: int = 64,
    seed: int = 0,
    weights: bool = True,
) -> Path:
    """A LeRobot ACT policy with random weights (``weights=False``: none, only its files), saved into ``path``.

    Needs lerobot; works offline.
    """
    import torch
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    inputs, outputs = features_of(image, cameras, state_dim, action_dim)

    def parsed(features: Mapping[str, Mapping[str, Any]]) -> dict[str, PolicyFeature]:
        return {n: PolicyFeature(type=FeatureType(f["type"]), shape=tuple(f["shape"])) for n, f in features.items()}

    config = ACTConfig(
        input_features=parsed(inputs),
        output_features=parsed(outputs),
        chunk_size=chunk_size,
        n_action_steps=chunk_size,
        normalization_mapping={kind: NormalizationMode(mode) for kind, mode in norm_mapping(norm).items()},
        pretrained_backbone_weights=None,
        dim_model=dim_model,
        n_heads=4,
        dim_feedforward=2 * dim_model,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        device="cpu",
        push_to_hub=False,
    )
    path.mkdir(parents=True, exist_ok=True)
    if weights:
        torch.manual_seed(seed)
        ACTPolicy(config).save_pretrained(path)
    else:
        config.save_pretrained(path)
    stats = {
        name: {key: torch.from_numpy(value.copy()) for key, value in entry.items()}
        for name, entry in random_stats(inputs | outputs, seed).items()
    }
    for pipeline in make_pre_post_processors(config, dataset_stats=stats):
        pipeline.save_pretrained(path)
    return path


def make_plain_folder(
    path: Path,
    *,
    image: tuple[int, int] = (96, 128),
    cameras: Sequence[str] = ("top", "wrist"),
    state_dim: int = 6,
    action_dim: int = 6,
    chunk_size: int = 20,
    norm: Norm = "MEAN_STD",
    seed: int = 0,
    **config: Any,
) -> Path:
    """The files of :func:`make_act_folder` without weights, written by hand; ``config`` adds to config.json."""
    inputs, outputs = features_of(image, cameras, state_dim, action_dim)
    mapping = norm_mapping(norm)
    stats = random_stats(inputs | outputs, seed)
    path.mkdir(parents=True, exist_ok=True)
    written = {
        "type": "act",
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": outputs,
        "device": "cuda",
        "chunk_size": chunk_size,
        "n_action_steps": chunk_size,
        "normalization_mapping": mapping,
        **config,
    }
    (path / "config.json").write_text(json.dumps(written, indent=4))
    normaliser = {"eps": 1e-8, "features": inputs | outputs, "norm_map": mapping}
    pre = [
        ("rename_observations_processor", {"rename_map": {}}),
        ("to_batch_processor", {}),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
        ("normalizer_processor", normaliser),
    ]
    post = [
        ("unnormalizer_processor", normaliser | {"features": outputs}),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
    ]
    write_processor(path, "policy_preprocessor", pre, stats)
    write_processor(path, "policy_postprocessor", post, stats)
    return path


def write_processor(path: Path, name: str, steps: Sequence[tuple[str, dict[str, Any]]], stats: Stats) -> None:
    """``{name}.json`` and the statistics of its normalisers."""
    from safetensors.numpy import save_file

    entries = []
    for index, (registry_name, config) in enumerate(steps):
        entry: dict[str, Any] = {"registry_name": registry_name, "config": config}
        if "normalizer" in registry_name:
            entry["state_file"] = f"{name}_step_{index}_{registry_name}.safetensors"
            flat = {f"{feature}.{key}": value for feature, own in stats.items() for key, value in own.items()}
            save_file(flat, path / entry["state_file"])
        entries.append(entry)
    (path / f"{name}.json").write_text(json.dumps({"name": name, "steps": entries}, indent=2))


def make_observation(
    *,
    image: tuple[int, int] = (96, 128),
    cameras: Sequence[str] = ("top", "wrist"),
    state_dim: int = 6,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """What a robot gives: uint8 (H, W, 3) pictures and a float32 state."""
    rng = np.random.default_rng(seed)
    observation = {
        f"observation.images.{camera}": rng.integers(0, 256, (*image, 3), dtype=np.uint8) for camera in cameras
    }
    return {"observation.state": rng.uniform(-3, 3, state_dim).astype(np.float32), **observation}
