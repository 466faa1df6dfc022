"""Starting the sides of a measurement, talking to them with a deadline, and ending them, whatever happened."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

C = TypeVar("C", bound="Child")

START_S = 60.0
LOOK_S = 0.5
END_S = 5.0


class BenchError(Exception):
    """A measurement could not be made; the message says why, for people."""


class Child:
    """A process with its output in a log. A context: ended on the way out, by signal where asking does not help."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.name = log.stem
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in: IO[bytes] = self.process.stdin
        self._out: IO[bytes] = self.process.stdout
        self._buffer = b""

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self, timeout_s: float, beside: Sequence[Child] = ()) -> str:
        """The next line of its standard output.

        Raises:
            BenchError: none within ``timeout_s``, or it has ended, or one of those ``beside`` that it needs.
        """
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
                    for other in beside:
                        other.check()
                    if time.monotonic() > deadline:
                        raise BenchError(f"{self.name} said nothing for {timeout_s:g} s; {self._last_words()}")
                    continue
                received = os.read(self._out.fileno(), 1 << 20)
                if not received:
                    raise BenchError(f"{self.name} ended ({self.process.poll()}); {self._last_words()}")
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def check(self) -> None:
        """Raise BenchError where it has ended."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended ({self.process.poll()}); {self._last_words()}")

    def write_line(self, text: str) -> None:
        try:
            self._in.write(text.encode() + b"\n")
            self._in.flush()
        except BrokenPipeError as error:
            raise BenchError(f"{self.name} has ended; {self._last_words()}") from error

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"its last words: {' | '.join(lines[-4:])[:600]}" if lines else "it wrote no error"

    def close(self) -> None:
        """Idempotent: end of input, then SIGTERM, then SIGKILL."""
        if not self._in.closed:
            self._in.close()
        for end in (None, self.process.terminate, self.process.kill):
            if end is not None:
                end()
            try:
                self.process.wait(END_S)
                break
            except subprocess.TimeoutExpired:
                continue
        if not self._out.closed:
            self._out.close()


class Node(Child):
    """A node of this package: ends on SIGTERM; its input means nothing to it, and all that it says is in its log."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(["sh", "-c", 'exec "$@" 1>&2', "sh", *command], log, environment)

    def wait_for(self, words: str, timeout_s: float = START_S) -> float:
        """Wait until its log holds ``words``; seconds from its start (to a hundredth).

        Raises:
            BenchError: not within ``timeout_s``, or it ended.
        """
        while words not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > self.started + timeout_s:
                raise BenchError(f"{self.name} never said {words!r}; {self._last_words()}")
            time.sleep(0.01)
        return time.monotonic() - self.started

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        super().close()


class Worker(Child):
    """A process that speaks the protocol of ``worker.py``. ``info``: what it told of itself once it was ready."""

    info: dict[str, Any]

    def __init__(
        self,
        module: str,
        config: Mapping[str, Any],
        log: Path,
        *,
        python: str = sys.executable,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        beside: Sequence[Child] = (),
    ) -> None:
        """``beside``: processes without which it will not get ready."""
        self._beside = tuple(beside)
        super().__init__([*prefix, python, "-m", module, json.dumps(config)], log, environment, cwd)

    def ready(self, timeout_s: float = START_S) -> dict[str, Any]:
        """What it tells of itself once it can measure."""
        self.info = json.loads(self.read_line(timeout_s, self._beside))["ready"]
        return self.info

    def run(self, rounds: int, period_s: float = 0.0, mode: str = "", timeout_s: float = 60.0) -> dict[str, Any]:
        """``{"stages": {name: [ms]}, "cpu_ms": …}`` of that many rounds."""
        self.write_line(json.dumps({"rounds": rounds, "period_s": period_s, "mode": mode}))
        answer: dict[str, Any] = json.loads(self.read_line(timeout_s + rounds * period_s))
        return answer
