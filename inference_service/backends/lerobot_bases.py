"""The models and tokenizers that LeRobot's larger families build on: named in config.json, fetched from a hub by their
constructors. Here they come from the policy's directory, another one, or the hub's cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_service.core.errors import PolicyFolderError
from inference_service.core.processing.language import tokenizer_directory

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

TEXT_TOKENIZER = "text_tokenizer_name"
# Keys of config.json, with LeRobot 0.6.1's defaults.
BASES: Mapping[str, Mapping[str, str]] = {
    "eo1": {"vlm_base": "Qwen/Qwen2.5-VL-3B-Instruct"},
    "evo1": {"vlm_model_name": "OpenGVLab/InternVL3-1B-hf"},
    "multi_task_dit": {
        "vision_encoder_name": "openai/clip-vit-base-patch16",
        "text_encoder_name": "openai/clip-vit-base-patch16",
    },
    "pi0_fast": {
        TEXT_TOKENIZER: "google/paligemma-3b-pt-224",
        "action_tokenizer_name": "lerobot/fast-action-tokenizer",
    },
    "smolvla": {"vlm_model_name": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"},
    "vla_jepa": {"qwen_model_name": "Qwen/Qwen3-VL-2B-Instruct", "jepa_encoder_name": "facebook/vjepa2-vitl-fpc64-256"},
    "wall_x": {"pretrained_name_or_path": "x-square-robot/wall-oss-flow"},
}


def local_bases(folder: PolicyFolder) -> dict[str, str]:
    """Those keys of config.json that name a directory: one inside the policy's, or any; as absolute paths."""
    found: dict[str, str] = {}
    for key, name in _named(folder).items():
        place = _directory(folder.path, name)
        if place is not None:
            found[key] = str(place)
    if TEXT_TOKENIZER in BASES.get(folder.config.type, {}) and TEXT_TOKENIZER not in found:
        found |= _tokenizer_of(folder)
    return found


def missing_bases(folder: PolicyFolder) -> str:
    """What the family wants and nobody has here, and how to provide it; empty where all is at hand."""
    absent = {key: name for key, name in _named(folder).items() if key not in local_bases(folder) and not _cached(name)}
    if not absent:
        return ""
    keys = ", ".join(f"'{key}' ({name})" for key, name in absent.items())
    return (
        f"'{folder.config.type}' also needs what {folder.path / 'config.json'} names under {keys}, which is not in the "
        f"hub's cache: fetch it where a network is (hf download {next(iter(absent.values()))}), or put its files into "
        "a directory inside the policy's and give that directory's name there"
    )


def _named(folder: PolicyFolder) -> dict[str, str]:
    raw = folder.config.raw
    values = {key: raw.get(key, default) for key, default in BASES.get(folder.config.type, {}).items()}
    if not raw.get("enable_world_model", True):
        values.pop("jepa_encoder_name", None)
    return {key: value for key, value in values.items() if isinstance(value, str)}


def _directory(folder: Path, name: str) -> Path | None:
    return next((place.resolve() for place in (folder / name, Path(name).expanduser()) if place.is_dir()), None)


def _tokenizer_of(folder: PolicyFolder) -> dict[str, str]:
    """The one that the preprocessor uses: it is the same."""
    for entry in folder.preprocessor.steps:
        if entry.name == "tokenizer_processor":
            try:
                return {TEXT_TOKENIZER: str(tokenizer_directory(entry))}
            except PolicyFolderError:
                return {}
    return {}


def _cached(name: str) -> bool:
    from huggingface_hub import constants

    snapshots: Any = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return snapshots.is_dir() and any(snapshots.iterdir())
