"""Files made by a vendor's conversion tool: there, of the right kind, and unaltered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inference_service.backends.onnx import digest
from inference_service.core.errors import ModelLoadFailed

Kind = Literal[".om", ".rknn", "executable"]
"""A suffix, or any file that may be executed."""


@dataclass(frozen=True)
class Artifact:
    """``path`` is absolute. ``sha256`` (64 hex digits, lower case) is None where none was declared."""

    path: Path
    kind: Kind
    sha256: str | None = None

    @classmethod
    def check(cls, path: Path, kind: Kind, sha256: str | None, where: str) -> Artifact:
        """The artifact at ``path``; ``where`` names what asks for it.

        Raises:
            ModelLoadFailed: missing, empty, of another kind, not executable, or with another digest.
        """
        if kind != "executable" and path.suffix != kind:
            raise ModelLoadFailed(f"{where}: {path.name} is no {kind} file")
        if not path.is_file():
            raise ModelLoadFailed(f"{where}: {path} is missing; copy it from where the model was converted")
        if path.stat().st_size == 0:
            raise ModelLoadFailed(f"{where}: {path} is empty; copy it again from where the model was converted")
        if kind == "executable" and not os.access(path, os.X_OK):
            raise ModelLoadFailed(f"{where}: {path} may not be executed; allow it with: chmod +x {path}")
        if sha256 is not None and digest(path) != sha256.lower():
            raise ModelLoadFailed(
                f"{where}: {path} has another SHA-256 than declared ({digest(path)[:12]}…, expected "
                f"{sha256.lower()[:12]}…); it is damaged or of another conversion, copy both files again"
            )
        return cls(path.absolute(), kind, sha256.lower() if sha256 else None)
