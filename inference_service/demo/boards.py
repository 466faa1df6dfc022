"""Boards that this machine is not: stand-ins of their runtimes, which the tests use too.

``--device ascend_om``, ``ascend_om_3403`` and ``rknn`` take whatever policy the run is about: its ``model.onnx`` is
what a stand-in computes, under the name that the vendor's converter would give it. On the board itself, where the
vendor's library is installed, nothing is put in its place.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inference_service.core.errors import ModelLoadFailed
from inference_service.demo.display import tell
from inference_service.demo.isolation import environment
from inference_service.demo.options import DemoOptions
from inference_service.demo.stage import set_stage

SIMULATORS = Path(__file__).resolve().parents[2] / "tests" / "simulators"
# device: (module of the vendor's library, directory of its stand-in for PYTHONPATH); a worker is a program.
_LIBRARIES = {"ascend_om": ("acl", "."), "rknn": ("rknnlite", "rknnlite"), "ascend_om_3403": ("", "")}
_SIDECARS: dict[str, tuple[str, dict[str, Any]]] = {
    "ascend_om": ("config.om.json", {"artifacts": {"policy": "policy.om"}}),
    "rknn": ("config.rknn.json", {"artifacts": {"policy": "policy.rknn"}}),
    "ascend_om_3403": ("config.om.json", {"artifacts": {"policy": "policy.om", "worker": "worker"}}),
}


@dataclass(frozen=True)
class Board:
    """``options`` to run with. ``journals`` of the stand-ins: a line for each rule of the vendor's that was broken."""

    options: DemoOptions
    journals: tuple[Path, ...] = ()

    def broken_rules(self) -> list[str]:
        """Empty on a real board, which keeps no journal."""
        return [line for file in self.journals if file.exists() for line in file.read_text().splitlines()]


@contextmanager
def board_for(options: DemoOptions) -> Iterator[Board]:
    """What ``options.device`` needs, here and in the processes that are started inside.

    Raises:
        ModelLoadFailed: the policy has no ``model.onnx`` for a stand-in to compute.
        RobotConfigError, PolicyError: as :func:`.stage.set_stage`.
    """
    device = options.device.partition(":")[0]
    if not _needs_stand_in(device, options.policy):
        yield Board(options)
        return
    policy = set_stage(options).folder.path
    tell(f"{device} is not this machine's: its stand-in computes {policy.name}/model.onnx in its place")
    with TemporaryDirectory(prefix="inference-service-board-") as temporary:
        directory = Path(temporary)
        made = _as_artifact(policy, device, directory)
        journals = (directory / "acl.journal", directory / "journal.jsonl")
        paths = [str(SIMULATORS / _LIBRARIES[device][1]), os.environ.get("PYTHONPATH", "")]
        settings: dict[str, str | None] = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "ACL_SIM_JOURNAL": str(journals[0]),
            "RKNN_SIM": str(directory),
        }
        with environment(settings):
            yield Board(replace(options, policy=made), journals)


def _needs_stand_in(device: str, policy: Path | None) -> bool:
    if device not in _LIBRARIES or not SIMULATORS.is_dir():
        return False
    if policy is not None and (policy.expanduser() / _SIDECARS[device][0]).is_file():
        return False  # made for a board, and to be run on one
    module = _LIBRARIES[device][0]
    return not module or find_spec(module) is None


def _as_artifact(policy: Path, device: str, directory: Path) -> Path:
    """A policy directory of the same name, made for ``device``."""
    graph = policy / "model.onnx"
    if not graph.is_file():
        raise ModelLoadFailed(
            f"{graph} is missing, and {device}'s stand-in computes it; make it with: "
            f"python -m inference_service.export {policy}"
        )
    made = directory / "policies" / policy.name
    shutil.copytree(policy, made, ignore=shutil.ignore_patterns("model.*", "config.om.json", "config.rknn.json"))
    name, content = _SIDECARS[device]
    document = {"schema_version": 1, "policy_type": _family(policy), "backend": device, **content}
    (made / name).write_text(json.dumps(document, indent=2))
    (made / content["artifacts"]["policy"]).symlink_to(graph.resolve())
    if "worker" in content["artifacts"]:
        _write_worker(made / "worker", directory)
    return made


def _family(policy: Path) -> str:
    return str(json.loads((policy / "config.json").read_text())["type"])


def _write_worker(file: Path, directory: Path) -> None:
    program = [sys.executable, "-I", str(SIMULATORS / "sd3403" / "worker.py"), "--sim", str(directory)]
    file.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    file.chmod(0o755)
    (directory / "sim.json").write_text("{}")
