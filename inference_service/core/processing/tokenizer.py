"""Prompts to token ids with the `tokenizers` library, from files in the policy directory. Nothing is downloaded.

``tokenizer.json`` decides everything but which token pads: that, as in ``transformers``, ``tokenizer_config.json``
says. Its ``add_bos_token`` and ``add_eos_token`` do not count where there is a ``tokenizer.json`` (transformers 5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import PolicyFolderError, UnsupportedStep
from inference_service.core.files import check, read_bytes, read_json_object

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, _SPECIAL_TOKENS)
# PaliGemma's has 17 MB.
MAX_TOKENIZER_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class Tokens:
    """``ids`` int64 (1, max_length) and ``mask`` bool (1, max_length), False at padding. ``length``: how many tokens
    the prompt has by itself, special ones included; more than max_length where it was cut."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    length: int


class PromptTokenizer:
    """One ``tokenizer.json``, with one length for every prompt. Any thread may call it."""

    def __init__(self, directory: Path, max_length: int, pad_left: bool) -> None:
        """
        Raises:
            PolicyFolderError: a file is missing, corrupt or says not which token pads.
            UnsupportedStep: the `tokenizers` library is not installed.
        """
        self._max_length = max_length
        self._pad_left = pad_left
        config = _settings(directory)
        self._tokenizer = _load(directory / TOKENIZER)
        self._pad_id = _pad_id(self._tokenizer, config, directory)
        side = config.get("truncation_side", "right")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, direction=check(side, str, str(directory / TOKENIZER_CONFIG)))

    def __call__(self, text: str) -> Tokens:
        encoding = self._tokenizer.encode(text)
        # What truncation cuts off is kept in pieces, each with special tokens of its own.
        cut_off = sum(len(piece.ids) - sum(piece.special_tokens_mask) for piece in encoding.overflowing)
        ids = np.full((1, self._max_length), self._pad_id, np.int64)
        mask = np.zeros((1, self._max_length), np.bool_)
        count = len(encoding.ids)
        place = slice(self._max_length - count, None) if self._pad_left else slice(0, count)
        ids[0, place] = encoding.ids
        mask[0, place] = True
        return Tokens(ids, mask, count + cut_off)


def tokenizer_identity(directory: Path) -> list[str | None]:
    """What decides the tokens of a prompt: sha256 of ``tokenizer.json``, the padding token, the side that is cut.

    Raises:
        PolicyFolderError: a file is missing or corrupt.
    """
    config = _settings(directory)
    digest = hashlib.sha256(read_bytes(directory / TOKENIZER, MAX_TOKENIZER_BYTES)).hexdigest()
    return [digest, _token(config, "pad_token"), str(config.get("truncation_side", "right"))]


def _settings(directory: Path) -> dict[str, Any]:
    return _optional_json(directory / _SPECIAL_TOKENS) | _optional_json(directory / TOKENIZER_CONFIG)


def _load(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UnsupportedStep(
            f"{path}: prompts need the `tokenizers` library ({error}); install it: "
            "pip install 'inference-service[language]'"
        ) from error
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:
        raise PolicyFolderError(f"{path}: not a tokenizer ({error}); copy it from the base model again") from error


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.exists() else {}


def _token(config: Mapping[str, Any], key: str) -> str | None:
    """A special token's text; transformers saves it plain or as an object with ``content``."""
    value = config.get(key)
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _pad_id(tokenizer: Any, config: Mapping[str, Any], directory: Path) -> int:
    token = _token(config, "pad_token") or (tokenizer.padding or {}).get("pad_token")
    number = None if token is None else tokenizer.token_to_id(token)
    if number is None:
        found = "no 'pad_token'" if token is None else f"'pad_token' {token!r:.40}, which {TOKENIZER} does not know"
        raise PolicyFolderError(
            f"{directory / TOKENIZER_CONFIG}: {found}; save the tokenizer again with transformers (save_pretrained)"
        )
    return int(number)
