"""What a process weighs after importing the modules named: seconds and resident MiB, as one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path


def resident_mib(pid: int | str = "self") -> float:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no VmRSS")


def processor_s(pid: int | str = "self") -> float:
    """Seconds of processor time that a process has had, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(modules: list[str]) -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    for module in modules:
        import_module(module)
    seconds = time.perf_counter() - started
    told = {"import_s": round(seconds, 3), "processor_s": processor_s(), "resident_mib": round(resident_mib(), 1)}
    answers.write(json.dumps(told) + "\n")
    answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
