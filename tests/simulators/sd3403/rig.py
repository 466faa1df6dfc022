"""Puts the stand-in worker into policy directories, and reads what it journalled."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORKER = Path(__file__).resolve().with_name("worker.py")


class SD3403Simulator:
    """Settings and journal of the workers started with its ``script``."""

    def __init__(self, directory: Path, *, stub: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.script = directory / "main"
        flags = "-I -S" if stub else "-I"
        command = (
            f"{shlex.quote(sys.executable)} {flags} {shlex.quote(str(WORKER))} --sim {shlex.quote(str(directory))}"
        )
        self.script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self.script.chmod(0o755)
        self.set()

    def set(self, **settings: Any) -> None:
        """From the next start of a worker on; ``faults``: {request id: fault}."""
        (self.directory / "sim.json").write_text(json.dumps(settings))

    @property
    def pids(self) -> list[int]:
        """Of every worker started so far."""
        file = self.directory / "pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every rule broken so far."""
        file = self.directory / "journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def gone(self, timeout_s: float = 10.0) -> bool:
        """Whether every worker has ended, and was reaped by whoever started it, within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while any(state_of(pid) is not None for pid in self.pids):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def state_of(pid: int) -> str | None:
    """The letter of /proc/PID/stat. None where there is no such process, or only an orphan that init has not reaped."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if (state, parent) == ("Z", "1") else state


def stub_model(file: Path, sizes: list[int], rows: int, width: int) -> Path:
    """A model that the stand-in answers without ONNX Runtime."""
    file.write_text("STUB" + json.dumps({"sizes": sizes, "rows": rows, "width": width}))
    return file


def install(folder: Path, simulator: SD3403Simulator, model: Path, **sidecar: Any) -> None:
    """``config.om.json``, the model as ``om/policy.om`` and the worker as ``om/main``, into a policy directory."""
    (folder / "om").mkdir()
    (folder / "om" / "policy.om").symlink_to(model.resolve())
    (folder / "om" / "main").symlink_to(simulator.script)
    document: Mapping[str, Any] = {
        "schema_version": 1,
        "policy_type": "act",
        "backend": "ascend_om_3403",
        "artifact_dir": "om",
        "artifacts": {"policy": "policy.om", "worker": "main"},
        "execution": ["policy", "worker"],
        **sidecar,
    }
    (folder / "config.om.json").write_text(json.dumps(document))
