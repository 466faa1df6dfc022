"""What every backend does with its options: extra keys checked, CPU threads counted."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from inference_service.core.errors import BackendError


def check_extra(backend: str, extra: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse an option that the backend does not know.

    Raises:
        BackendError: naming the option, the nearest and the known ones.
    """
    for key in extra:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise BackendError(f"backend '{backend}' has no option '{key}'{hint} Known: {', '.join(sorted(known))}")


def parse_extra(text: str) -> dict[str, Any]:
    """The extra options in a node's parameter: a JSON object, or nothing.

    Raises:
        BackendError: it is none.
    """
    if not text.strip():
        return {}
    try:
        extra = json.loads(text)
    except ValueError as error:
        extra = error
    if not isinstance(extra, dict):
        raise BackendError(
            f"parameter 'backend_options' must be a JSON object such as {{\"seed\": 1}}, found {text!r:.80}"
        )
    return extra


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and its container's quota where that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(allowed, round(quota)) if quota is not None else allowed)


def _cgroup_quota(file: Path) -> float | None:
    """CPUs by cgroup v2's ``cpu.max``, "quota period" in microseconds or "max period" (kernel, cgroup-v2.rst)."""
    if not file.is_file():
        return None
    quota, _, period = file.read_text().strip().partition(" ")
    return None if quota == "max" else int(quota) / int(period)
