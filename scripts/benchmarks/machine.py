"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Kernel, processor, memory, and what may explain a figure: load at the start, the kernel's socket buffers."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _gigabytes(_field("/proc/meminfo", "MemTotal")),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "net.core.rmem_max": _read("/proc/sys/net/core/rmem_max"),
        "began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "?"


def _field(path: str, name: str) -> str:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _gigabytes(kilobytes: str) -> str:
    number = kilobytes.split()[0] if kilobytes else "0"
    return f"{int(number) / 1e6:.0f} GB"
