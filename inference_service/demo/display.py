"""What a run shows while it lasts: a live table on a terminal, plain lines elsewhere. All lines also go to a file."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live

from inference_service.demo.recording import Recording
from inference_service.demo.table import View, look, render, status_line

LOG_TAIL = 8
TABLE_PERIOD_S = 0.5
STATUS_PERIOD_S = 3.0


def tell(text: str) -> None:
    """A line of the run's own on standard output, at once."""
    sys.stdout.write(f"[demo] {text}\n")
    sys.stdout.flush()


class Display(Protocol):
    def line(self, source: str, text: str) -> None:
        """One line of a process, or of the run itself; from any thread."""
        ...

    def show(self, recording: Recording) -> None:
        """Called a few times a second; draws when it is time to."""
        ...

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _ToDisplay(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.line("demo", f"[{record.levelname}] [{record.name}]: {record.getMessage()}")


@contextmanager
def logs_to(display: Display) -> Iterator[None]:
    """Meanwhile this process's own log lines go where the nodes' lines go."""
    handler = _ToDisplay(display)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class LogFile:
    """Every line of every process, in one file, each with its source."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def write(self, source: str, text: str) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(f"{source}: {text}\n")

    def close(self) -> None:
        with self._lock:
            self._file.close()


class LineDisplay:
    """For log files and CI: the processes' lines as they come, and a status line every few seconds."""

    def __init__(self, log: LogFile, console: Console | None = None) -> None:
        self._log = log
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._next = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def line(self, source: str, text: str) -> None:
        self._log.write(source, text)
        self._console.print(f"{source}: {text}")

    def show(self, recording: Recording) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + STATUS_PERIOD_S
            self._console.print(f"[demo] {status_line(recording.read(lambda r: look(r, now)))}")


class TableDisplay:
    """The live table."""

    def __init__(self, log: LogFile, title: str, console: Console | None = None) -> None:
        self._log = log
        self._title = title
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._live = Live(console=console or Console(), auto_refresh=False, transient=False)
        self._next = 0.0

    def __enter__(self) -> Display:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def line(self, source: str, text: str) -> None:
        self._log.write(source, text)
        self._tail.append(text)

    def show(self, recording: Recording) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TABLE_PERIOD_S
            view: View = recording.read(lambda r: look(r, now))
            self._live.update(render(view, self._title, list(self._tail)), refresh=True)
