"""Policies by their name on the Hugging Face hub: where huggingface_hub is, and a network or the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from inference_service.core.errors import PolicyFolderError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# What a policy directory may hold; not a training run's optimiser and logs.
_WANTED = ["*.json", "*.safetensors", "*.onnx", "*.om", "*.rknn", "tokenizer/*", "*.model"]


def is_hub_id(path: str | Path) -> bool:
    """Whether ``path`` may be ``owner/name`` or ``owner/name@revision`` on a hub, and is nothing here."""
    return _HUB_ID.fullmatch(str(path)) is not None and not Path(path).parent.exists()


def fetch(hub_id: str) -> Path:
    """The directory in the hub's cache that holds ``owner/name[@revision]``, fetched where it is not there yet.

    ``HF_HUB_OFFLINE=1`` keeps to the cache; ``HF_HOME``, ``HF_TOKEN`` and ``HF_ENDPOINT`` mean what they always do.

    Raises:
        PolicyFolderError: no huggingface_hub, no such repository, or no network and nothing in the cache.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PolicyFolderError(
            f"{hub_id}: no such directory. If it is a policy on a hub: pip install huggingface_hub, or download it "
            f"where a network is (hf download {hub_id.partition('@')[0]} --local-dir DIR) and give DIR"
        ) from error
    name, _, revision = hub_id.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED))
    except Exception as error:
        raise PolicyFolderError(
            f"{hub_id}: no such directory, and it could not be fetched from the hub ({_first_line(error)}). "
            f"Download it where a network is (hf download {name} --local-dir DIR) and give DIR"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"
