"""The vendor's worker as a process: three pipes, none of which is ever waited for without a deadline.

One poll serves all three at once. A worker that logs while it is being written to, or that prints megabytes on
standard error, can therefore block neither itself nor us, and no thread is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from inference_service.backends.compiled.sd3403_protocol import MAX_CHATTER_BYTES, WorkerBroken
from inference_service.core.errors import BackendUnavailable

_BLOCK = 1 << 16
_TAIL_LINES = 80
_LINE_BYTES = 500
# A worker that logs without end is not read to the end.
_TAIL_BLOCKS = 64
_QUOTED_BYTES = 120
_EXIT_S = 1.0
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
# Settings of IB-Robot's first worker, which a stray shell profile may still export: they would override --model.
_OLD_SETTINGS = "SVP_"
_log = logging.getLogger(__name__)
_GUARD = Path(__file__).resolve().parents[2] / "launch_guard.py"


class Worker:
    """A running worker. Not thread-safe: one request at a time.

    Raises:
        BackendUnavailable: this system cannot execute the file.
    """

    def __init__(self, executable: Path, model: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_OLD_SETTINGS)}
        self._guard = _started_guard()
        try:
            self._process = subprocess.Popen(
                [str(executable), "--model", str(model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=executable.parent,
                env=environment,
                # A terminal's Ctrl-C is for the engine, which ends its worker in order.
                start_new_session=True,
            )
        except OSError as error:
            self._guard.dismiss()
            raise BackendUnavailable(
                f"{executable} cannot be started here ({error.strerror}); it must be built for this board"
            ) from error
        self._guard.watch(self._process.pid)
        self._stdin, self._stdout, self._stderr = map(_unblocked, self._streams())
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._tail: deque[bytes] = deque([b""], maxlen=_TAIL_LINES)
        self._logs = True
        self._deadline = time.monotonic()
        self._ended = False
        self.first = True
        """Whether it has not answered yet, that is, may still be loading its model."""

    def _streams(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        return stdin, stdout, stderr

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended and self._process.poll() is None

    def send(self, pieces: Sequence[memoryview], timeout_s: float) -> None:
        """Write a request. ``timeout_s`` is for the whole exchange, reads of the reply included.

        Raises:
            WorkerBroken: it does not read, has exited, or prints without end.
        """
        self._deadline = time.monotonic() + timeout_s
        self._unsent.extend(pieces)
        self._pump(lambda: not self._unsent)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes of its standard output.

        Raises:
            WorkerBroken: the deadline passed, or it has exited.
        """
        self._pump(lambda: len(self._received) >= size)
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def skip_past(self, mark: bytes, limit: int) -> None:
        """Drop its output up to and including ``mark``.

        Raises:
            WorkerBroken: no ``mark`` within ``limit`` bytes or before the deadline, or it has exited.
        """
        skipped, quoted = 0, b""
        while (found := self._received.find(mark)) < 0 and skipped + len(self._received) <= limit + len(mark):
            # The mark may have come in half.
            useless = max(0, len(self._received) - len(mark) + 1)
            quoted = (quoted + self._received[:useless])[-_QUOTED_BYTES:]
            skipped += useless
            del self._received[:useless]
            self._receive_more(quoted)
        if found < 0 or skipped + found > limit:
            raise WorkerBroken(f"the worker printed {limit} bytes and no reply; the last of them: {quoted!r}")
        del self._received[: found + len(mark)]

    def _receive_more(self, quoted: bytes) -> None:
        before = len(self._received)
        self._pump(lambda: len(self._received) > before, quoted)

    def end(self, graceful_s: float) -> None:
        """Close its pipes, wait ``graceful_s``, then SIGTERM, then SIGKILL; reaped on return. Idempotent."""
        if self._ended:
            return
        self._ended = True
        for stream in self._streams():
            stream.close()
        if not self._exits_within(graceful_s):
            self._signal(signal.SIGTERM)
            if not self._exits_within(_EXIT_S):
                self._signal(signal.SIGKILL)
                if not self._exits_within(_EXIT_S):
                    _log.error("worker %d survives SIGKILL: it hangs in the driver", self.pid)
        # What it may have started, where it is a shell script.
        self._signal(signal.SIGKILL)
        self._guard.dismiss()

    def describe(self) -> str:
        """Whether and how it ended, and the last lines of its standard error, as what follows "it"."""
        for _ in range(_TAIL_BLOCKS):
            if self._ended or not self._logs or not self._read_log():
                break
        lines = [line.decode("utf-8", errors="replace").rstrip() for line in self._tail]
        tail = "\n  | ".join(line for line in lines if line)
        return f"{self._fate()}; its last lines on standard error:\n  | {tail}" if tail else self._fate()

    def _fate(self) -> str:
        code = self._process.poll()
        if code is None:
            return "still runs"
        return f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"

    def _pump(self, done: Callable[[], bool], quoted: bytes = b"") -> None:
        """Move bytes on all three pipes until ``done()``."""
        while not done():
            poll = select.poll()
            poll.register(self._stdout, select.POLLIN)
            if self._logs:
                poll.register(self._stderr, select.POLLIN)
            if self._unsent:
                poll.register(self._stdin, select.POLLOUT)
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise WorkerBroken(f"the worker did not answer in time ({self._progress(quoted)})")
            for descriptor, events in poll.poll(left * 1000):
                if descriptor == self._stdin:
                    self._write()
                elif events & _READABLE and descriptor == self._stderr:
                    self._read_log()
                elif events & _READABLE:
                    self._receive()

    def _progress(self, quoted: bytes) -> str:
        if self._unsent:
            return f"{sum(len(piece) for piece in self._unsent)} bytes of the request are still unread"
        printed = bytes(quoted + self._received)[-_QUOTED_BYTES:]
        return f"it printed {printed!r}" if printed else "it printed nothing"

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._unsent[0])
        except BlockingIOError:
            return
        except BrokenPipeError as error:
            raise self._exited("while it was sent a request") from error
        if written == len(self._unsent[0]):
            self._unsent.popleft()
        else:
            self._unsent[0] = self._unsent[0][written:]

    def _receive(self) -> None:
        data = _read(self._stdout)
        if data == b"":
            raise self._exited("before its reply was complete")
        self._received += data or b""
        if self._unsent and len(self._received) > MAX_CHATTER_BYTES:
            raise WorkerBroken(f"the worker prints instead of reading: {bytes(self._received[-_QUOTED_BYTES:])!r}")

    def _read_log(self) -> bool:
        """Take what is there of its standard error. Whether there can be more."""
        data = _read(self._stderr)
        if data:
            first, *lines = data.split(b"\n")
            self._tail[-1] = (self._tail[-1] + first)[:_LINE_BYTES]
            self._tail.extend(line[:_LINE_BYTES] for line in lines)
        elif data == b"":
            self._logs = False
        return bool(data)

    def _exited(self, when: str) -> WorkerBroken:
        self._exits_within(_EXIT_S)
        return WorkerBroken(f"the worker exited {when}")

    def _exits_within(self, timeout_s: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=timeout_s)
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        """To its process group, which may have ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Guard:
    """A small process that ends the worker should we be gone, even by SIGKILL (:mod:`inference_service.launch_guard`).

    A worker that computes does not look at its standard input, so its end alone would not do.
    """

    def __init__(self) -> None:
        # -I -S: nothing of the environment or site-packages, it needs the standard library only.
        command = [sys.executable, "-I", "-S", str(_GUARD)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        assert self._process.stdin is not None
        self._orders = self._process.stdin
        self._group = 0

    def watch(self, group: int) -> None:
        self._group = group
        self._tell("+")

    def dismiss(self) -> None:
        """It forgets the worker and exits."""
        self._tell("-")
        self._orders.close()
        try:
            self._process.wait(timeout=_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=_EXIT_S)

    def _tell(self, sign: str) -> None:
        # Where somebody ended it the worker is unguarded, which is no reason to stop the robot.
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(f"{sign} {self._group}\n".encode())


def _started_guard() -> _Guard:
    try:
        return _Guard()
    except OSError as error:
        raise BackendUnavailable(f"no process can be started to guard the worker: {error}") from error


def _unblocked(stream: IO[bytes]) -> int:
    os.set_blocking(stream.fileno(), False)
    return stream.fileno()


def _read(descriptor: int) -> bytes | None:
    """What is there to read; empty at the end, None where there is nothing yet."""
    try:
        return os.read(descriptor, _BLOCK)
    except BlockingIOError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
