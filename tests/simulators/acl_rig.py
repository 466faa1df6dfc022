"""Runs the stand-in for ``acl`` in processes of their own, and reads what it journalled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent
"""What belongs on PYTHONPATH."""


@dataclass
class AclSimulator:
    """Journal and faults of one directory. ``faults``: as in ``ACL_SIM_FAULTS``, for processes started from then on."""

    directory: Path
    faults: str = ""
    hanging: Path = field(init=False)
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.hanging, self.file = self.directory / "hanging", self.directory / "journal"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "ACL_SIM_JOURNAL": str(self.file),
            "ACL_SIM_FAULTS": self.faults,
            "ACL_SIM_HANGING": str(self.hanging),
        }

    @property
    def journal(self) -> list[str]:
        """Every rule broken so far."""
        return self.file.read_text().splitlines() if self.file.exists() else []


def install(folder: Path, model: Path) -> None:
    """``config.om.json`` and the model as ``policy.om``, into a policy directory."""
    (folder / "policy.om").symlink_to(model.resolve())
    document = {
        "schema_version": 1,
        "policy_type": "act",
        "backend": "ascend_om",
        "artifacts": {"policy": "policy.om"},
        "execution": ["policy"],
    }
    (folder / "config.om.json").write_text(json.dumps(document))
