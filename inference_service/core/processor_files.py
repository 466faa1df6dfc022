"""``policy_preprocessor.json`` and ``policy_postprocessor.json``: LeRobot's pipelines, read as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from inference_service.core.errors import PolicyFolderError
from inference_service.core.files import check, get, plain_name, read_json_object, read_tensors

MAX_STEPS = 64


@dataclass(frozen=True)
class StepEntry:
    """One step of a processor file.

    ``name`` is LeRobot's registry name, or the dotted class path of a step that has none. ``state`` holds the
    tensors of its state file, named ``<feature>.<statistic>`` for the normalisers. ``artifacts`` names, for an
    option, the directory beside the file in which its value was saved.
    """

    index: int
    name: str
    config: Mapping[str, Any]
    source: Path
    state_file: str | None = None
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    artifacts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """File and place, for errors."""
        return f"{self.source}: step {self.index} '{self.name}'"

    @property
    def state_source(self) -> str:
        """Where the statistics came from, or were to come from."""
        return str(self.source.with_name(self.state_file)) if self.state_file else f"{self.where} (has no state_file)"


@dataclass(frozen=True)
class ProcessorFile:
    """A pipeline: its steps in order. The order is part of the policy."""

    path: Path
    name: str
    steps: tuple[StepEntry, ...]


def read_processor(path: Path) -> ProcessorFile:
    """Parse a processor file and the state files it names.

    Raises:
        PolicyFolderError: what is missing, corrupt or inconsistent, with file, key and fix.
    """
    raw = read_json_object(path)
    steps = get(raw, "steps", list, str(path))
    if len(steps) > MAX_STEPS:
        raise PolicyFolderError(f"{path}: key 'steps' has {len(steps)} entries, more than {MAX_STEPS}")
    return ProcessorFile(
        path=path,
        name=check(raw.get("name", path.stem), str, f"{path}: key 'name'"),
        steps=tuple(_read_step(path, index, entry) for index, entry in enumerate(steps)),
    )


def _read_step(path: Path, index: int, entry: Any) -> StepEntry:
    where = f"{path}: steps[{index}]"
    entry = check(entry, dict, where)
    key = "class" if "registry_name" not in entry and "class" in entry else "registry_name"
    state_file = entry.get("state_file")
    return StepEntry(
        index=index,
        name=get(entry, key, str, where),
        config=check(entry.get("config") or {}, dict, f"{where}.config"),
        source=path,
        state_file=state_file,
        state={} if state_file is None else read_tensors(path.with_name(plain_name(state_file, f"{where}.state_file"))),
        artifacts=check(entry.get("artifacts") or {}, dict, f"{where}.artifacts"),
    )
