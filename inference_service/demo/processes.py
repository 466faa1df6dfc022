"""What Linux says of a process: memory, threads, open files, and whether torch is loaded in it."""

from __future__ import annotations

from pathlib import Path

from inference_service.demo.events import Resources

_PROC = Path("/proc")


def look_at(pid: int, name: str, t: float, proc: Path = _PROC) -> Resources | None:
    """The state of process ``pid`` (see ``proc(5)``), or ``None`` where it has ended."""
    base = proc / str(pid)
    try:
        status = dict(line.split(":", 1) for line in (base / "status").read_text().splitlines() if ":" in line)
        maps = (base / "maps").read_text()
        fds = sum(1 for _ in (base / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "VmRSS" not in status:
        return None  # a zombie has no memory
    return Resources(
        t=t,
        process=name,
        rss_mb=int(status["VmRSS"].split()[0]) / 1024,
        threads=int(status["Threads"]),
        fds=fds,
        imports_torch="libtorch" in maps,
    )
