"""One part of the benchmark in this process: ``python -m benchmarks.part LETTER OPTIONS``, options as JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import FrameType

from benchmarks.bench import Bench, write_json


def main(letter: str, text: str) -> int:
    """Write ``OUT/LETTER.json``: what the part found, or why it could not."""
    signal.signal(signal.SIGTERM, _interrupt)
    options = json.loads(text)
    out = Path(options.pop("out"))
    started = time.monotonic()
    try:
        with Bench(out, **options) as bench:
            result = import_module(f"benchmarks.part_{letter}").run(bench).to_json()
    except Exception as error:
        write_json(out / f"{letter}.json", {"error": f"{type(error).__name__}: {error}"})
        raise
    write_json(out / f"{letter}.json", {**result, "seconds": round(time.monotonic() - started, 1)})
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
