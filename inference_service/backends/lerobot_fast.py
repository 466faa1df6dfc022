"""pi0-FAST's action tokenizer, read as data.

LeRobot loads it from a hub together with Python code (``trust_remote_code``), of which inference needs two numbers and
a tokenizer: ``lerobot/policies/pi0_fast/modeling_pi0_fast.py`` (0.6.1) does the decoding itself. So no code from a
policy's directory or a hub runs here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inference_service.backends.replaced import replaced
from inference_service.core.errors import ModelLoadFailed
from inference_service.core.files import check, read_json_object

_PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class FastTokenizer:
    """``bpe_tokenizer``: ids to characters. A DCT coefficient is ``(code point + min_token) / scale``."""

    bpe_tokenizer: Any
    scale: float
    min_token: int

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> FastTokenizer:
        """Of a directory, or of a repository in the hub's cache.

        Raises:
            ModelLoadFailed: a file or a key is missing.
        """
        from transformers import PreTrainedTokenizerFast
        from transformers.utils.hub import cached_file

        found = cached_file(name, _PROCESSOR)
        settings = read_json_object(Path(str(found)))
        try:
            scale, min_token = settings["scale"], check(settings["min_token"], int, f"{found}: key 'min_token'")
        except KeyError as error:
            raise ModelLoadFailed(f"{found}: key {error} is missing; this is no FAST action tokenizer") from error
        return cls(PreTrainedTokenizerFast.from_pretrained(name), float(scale), min_token)


@contextlib.contextmanager
def without_foreign_code() -> Iterator[None]:
    """pi0-FAST built inside gets a :class:`FastTokenizer`, and a text tokenizer without code of its own."""
    from lerobot.policies.pi0_fast import modeling_pi0_fast
    from transformers import AutoTokenizer

    def text_tokenizer(name: str, **options: Any) -> Any:
        return AutoTokenizer.from_pretrained(name, **options | {"trust_remote_code": False})

    tokenizers = SimpleNamespace(from_pretrained=text_tokenizer)
    with replaced(modeling_pi0_fast, "AutoProcessor", FastTokenizer):
        with replaced(modeling_pi0_fast, "AutoTokenizer", tokenizers):
            yield
