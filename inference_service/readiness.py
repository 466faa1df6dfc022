"""Readiness of the nodes on this machine, told by files: what a container's health check reads.

A node writes ``<node>.json`` into the directory named by ``INFERENCE_SERVICE_STATUS_DIR`` each time it
publishes diagnostics (once a second). A check that joined DDS for the same answer would cost a participant
and half a second of CPU each time. Nothing is written where the variable is not set.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

STATUS_DIR = "INFERENCE_SERVICE_STATUS_DIR"
FRESH_S = 5.0
"""A node that has not written for this long hangs or is gone."""


def write_status(node: str, *, ready: bool, message: str) -> None:
    """Say whether ``node`` is ready, and why not. Raises OSError when the directory cannot be written."""
    directory = os.environ.get(STATUS_DIR)
    if not directory:
        return
    path = Path(directory) / f"{node}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"node": node, "ready": ready, "message": message, "monotonic": time.monotonic()}))
    fresh.replace(path)


def remove_status(node: str) -> None:
    """Forget ``node``: it left in order, and is no longer waited for."""
    directory = os.environ.get(STATUS_DIR)
    if directory:
        (Path(directory) / f"{node}.json").unlink(missing_ok=True)


def check(expected: list[str]) -> list[str]:
    """What is not ready, one line each; empty when all is well.

    Args:
        expected: nodes that must be there; whoever else wrote a status is checked too. With neither, nothing
            is ready.
    """
    directory = os.environ.get(STATUS_DIR)
    if not directory:
        return [f"{STATUS_DIR} is not set: the nodes of this machine write no status"]
    statuses = {path.stem: path for path in sorted(Path(directory).glob("*.json"))}
    problems = [f"{node}: has not started" for node in expected if node not in statuses]
    if not statuses and not problems:
        problems = [f"no node has written a status to {directory}"]
    return problems + [text for path in statuses.values() if (text := _problem(path))]


def _problem(path: Path) -> str:
    try:
        status = json.loads(path.read_text())
        age = time.monotonic() - float(status["monotonic"])
        ready, message = bool(status["ready"]), str(status["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path.stem}: status cannot be read: {error}"
    if age > FRESH_S:
        return f"{path.stem}: silent for {age:.0f} s"
    return "" if ready else f"{path.stem}: {message}"


if __name__ == "__main__":
    # Without the command line's imports: a container asks every few seconds.
    found = check(sys.argv[1:])
    sys.stdout.write("\n".join(found or ["ready"]) + "\n")
    sys.exit(1 if found else 0)
