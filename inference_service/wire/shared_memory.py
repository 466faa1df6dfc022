"""Large payloads of a request through memory that both processes see, where device and engine share a machine.

The engine puts a small file with a secret into the shared directory and names both on its card (:class:`Beacon`). A
device that finds the secret there shares the memory: the payloads of its requests go into a file of its own
(:class:`SharedRing`), and the message carries where they lie, one JSON object each in ``task.shared``. The engine
reads them out (:class:`SharedReader`). Whoever does not find the secret sends the payloads in the message, as ever.

A ring has a few slots, each used again some requests later. A slot begins with the number of the request that it
holds, zero while it is written; the reader looks at it before and after, and refuses what was overwritten. Files are
read with read(2), never mapped: a file that is cut short by its owner is an error here, not a signal.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
import secrets
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import UInt8
from inference_service.core.errors import MalformedMessage
from inference_service.wire.variants import Bounds, Entry

DEFAULT_DIRECTORY = Path("/dev/shm")
SMALLEST_BYTES = 32 << 10
"""Tensors below this travel in the message: a file would cost more than they do."""
SLOTS = 4
_PREFIX = "inference-service-"
_NAME = re.compile(_PREFIX + r"[0-9a-f]{32}")
_HEADER = 64
_ALIGNMENT = 64
_SECRET_BYTES = 32
_OPEN_FILES = 64
_BUFFERS = 16
_DTYPES: dict[str, np.dtype[Any]] = {
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class SharedTensor:
    """One object of ``task.shared``: request ``turn`` put the tensor ``key`` at ``offset`` of the slot ``slot``, a
    byte position in the file ``segment``."""

    key: str
    segment: str
    slot: int
    turn: int
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _DTYPES[self.dtype].itemsize


class Beacon:
    """The engine's proof that it sees a directory. ``token`` goes on its card; empty where nothing can be shared, which
    ``problem`` then explains."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self.token = self.problem = ""
        self._file: _OwnFile | None = None
        if not _usable(directory):
            self.problem = f"{directory} is no directory that this process may write to"
            return
        secret = secrets.token_bytes(_SECRET_BYTES)
        try:
            self._file = _OwnFile(directory, len(secret))
        except OSError as error:  # full, or not for us: nothing is shared, everything travels in messages
            self.problem = f"{directory}: {error.strerror}"
            return
        os.pwrite(self._file.descriptor, secret, 0)
        self.token = f"{self._file.path.name}:{secret.hex()}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def sees(token: str, directory: Path = DEFAULT_DIRECTORY) -> bool:
    """Whether the engine with this token shares ``directory`` with us."""
    name, _, secret = token.partition(":")
    if not _NAME.fullmatch(name) or not re.fullmatch(f"[0-9a-f]{{{2 * _SECRET_BYTES}}}", secret):
        return False
    try:
        descriptor = _open(directory, name)
    except OSError:
        return False
    try:
        return os.pread(descriptor, _SECRET_BYTES, 0) == bytes.fromhex(secret)
    finally:
        os.close(descriptor)


class SharedRing:
    """The device's side: payloads of one request after the other. Thread-safe."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._turn = 0
        self._slot_bytes = 0
        self._file: _OwnFile | None = None
        self._memory: mmap.mmap | None = None

    def put(self, entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
        """``entries`` with every large tensor emptied, and the objects of ``task.shared`` that say where they are.

        Raises:
            OSError: the directory is full or gone; send ``entries`` as they are.
        """
        large = {key: entry for key, entry in entries.items() if isinstance(entry, np.ndarray) and _is_large(entry)}
        if not large:
            return dict(entries), []
        with self._lock:
            shared = self._write(large)
        kept: dict[str, Entry] = {**entries, **{key: np.zeros(0, array.dtype) for key, array in large.items()}}
        return kept, [tensor.to_json() for tensor in shared]

    def _write(self, large: Mapping[str, NDArray[Any]]) -> list[SharedTensor]:
        need = _HEADER + sum(_aligned(array.nbytes) for array in large.values())
        if self._memory is None or need > self._slot_bytes:
            self._grow(need)
        assert self._memory is not None and self._file is not None
        self._turn += 1
        slot = (self._turn % SLOTS) * self._slot_bytes
        turn = np.frombuffer(self._memory, "<u8", 1, slot)
        turn[0] = 0
        offset = _HEADER
        shared = []
        for key, array in large.items():
            target = np.frombuffer(self._memory, array.dtype, array.size, slot + offset)
            target.reshape(array.shape)[...] = array
            name = self._file.path.name
            shared.append(SharedTensor(key, name, slot, self._turn, offset, array.dtype.name, array.shape))
            offset += _aligned(array.nbytes)
        turn[0] = self._turn
        return shared

    def _grow(self, need: int) -> None:
        self._release()
        self._slot_bytes = -(-need // mmap.PAGESIZE) * mmap.PAGESIZE
        self._file = _OwnFile(self._directory, SLOTS * self._slot_bytes)
        self._memory = mmap.mmap(self._file.descriptor, SLOTS * self._slot_bytes)

    def close(self) -> None:
        """Remove the file. Idempotent."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        # The mapping goes when the last array over it does; nobody outside this class has one.
        self._memory = None
        if self._file is not None:
            self._file.close()
            self._file = None


class SharedReader:
    """The engine's side. Safe from one thread at a time; keeps the last files open."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self._directory = directory
        self._open: OrderedDict[str, int] = OrderedDict()
        self._buffers = _Buffers()

    def take(self, objects: list[str], bounds: Bounds) -> dict[str, NDArray[Any]]:
        """The tensors that the objects of ``task.shared`` name, copied out.

        Raises:
            MalformedMessage: an object is garbled, claims more than ``bounds``, or its data is not there any more.
        """
        tensors = [_parse(text, bounds) for text in objects]
        total = sum(tensor.nbytes for tensor in tensors)
        if total > bounds.total_bytes:
            raise MalformedMessage(f"task.shared claims {total} bytes, at most {bounds.total_bytes} are allowed")
        return {tensor.key: self._read(tensor) for tensor in tensors}

    def _read(self, tensor: SharedTensor) -> NDArray[Any]:
        buffer = self._buffers.take(tensor.nbytes)
        try:
            descriptor = self._descriptor(tensor.segment)
            before = os.pread(descriptor, 8, tensor.slot)
            count = os.preadv(descriptor, [buffer.data], tensor.slot + tensor.offset)
            after = os.pread(descriptor, 8, tensor.slot)
        except OSError as error:
            raise MalformedMessage(f"{tensor.key!r}: shared memory {tensor.segment}: {error.strerror}") from error
        if count != tensor.nbytes:
            raise MalformedMessage(
                f"{tensor.key!r}: shared memory {tensor.segment} holds {count} of {tensor.nbytes} bytes"
            )
        expected = tensor.turn.to_bytes(8, "little")
        if before != expected or after != expected:
            raise MalformedMessage(f"{tensor.key!r}: overwritten in shared memory before it was read")
        return buffer.view(_DTYPES[tensor.dtype]).reshape(tensor.shape)

    def _descriptor(self, name: str) -> int:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        descriptor = self._open[name] = _open(self._directory, name)
        if len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all files. Idempotent."""
        while self._open:
            os.close(self._open.popitem()[1])


class _Buffers:
    """Buffers that are used again once nothing refers to them: fresh memory costs a page fault every 4 KiB, more than
    the copy itself."""

    def __init__(self) -> None:
        self._kept: list[UInt8] = []

    def take(self, size: int) -> UInt8:
        """(size,) uint8, of any content."""
        for index in range(len(self._kept)):
            # One reference is the list's, one the argument's of getrefcount.
            if self._kept[index].size == size and sys.getrefcount(self._kept[index]) == 2:
                return self._kept[index][:]
        buffer = np.empty(size, np.uint8)
        self._kept = [*self._kept[1 - _BUFFERS :], buffer]
        return buffer[:]


class EngineMemory:
    """An engine's side: ``token`` for its card, ``reader`` for its requests. ``directory`` empty: no token and no
    reader, nothing is shared; so too where the directory cannot be used, and then ``problem`` says why."""

    def __init__(self, directory: str) -> None:
        self._beacon = Beacon(Path(directory)) if directory else None
        self.token = self._beacon.token if self._beacon else ""
        self.problem = self._beacon.problem if self._beacon else ""
        self.reader = SharedReader(Path(directory)) if self.token else None

    def close(self) -> None:
        """Idempotent."""
        if self._beacon is not None:
            self._beacon.close()
        if self.reader is not None:
            self.reader.close()


def _parse(text: str, bounds: Bounds) -> SharedTensor:
    try:
        fields = json.loads(text)
        tensor = SharedTensor(**{**fields, "shape": tuple(fields["shape"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedMessage(f"task.shared: {text[:80]!r} does not say where a tensor is") from error
    numbers = (tensor.slot, tensor.turn, tensor.offset, *tensor.shape)
    if any(type(number) is not int or not 0 <= number < 1 << 48 for number in numbers) or not tensor.turn:
        raise MalformedMessage(f"task.shared: {text[:80]!r} holds a number that is none")
    if not isinstance(tensor.key, str) or tensor.dtype not in _DTYPES or not _NAME.fullmatch(str(tensor.segment)):
        raise MalformedMessage(f"task.shared: {text[:80]!r}: unknown key, dtype or segment")
    if not 1 <= len(tensor.shape) <= bounds.rank or not 0 < tensor.nbytes <= bounds.tensor_bytes:
        raise MalformedMessage(
            f"task.shared: {tensor.key[:32]!r}: shape {str(tensor.shape)[:64]} is outside the bounds"
        )
    return tensor


class _OwnFile:
    """A file of ours in the shared directory, locked while its owner lives; what dead owners left there is removed."""

    def __init__(self, directory: Path, size: int) -> None:
        _remove_orphans(directory)
        self.path = directory / f"{_PREFIX}{secrets.token_hex(16)}"
        # Locked under another name first, so that nobody takes it for an orphan.
        new = directory / f".{self.path.name}"
        self.descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Now, not at the first write: a full directory is an error here and a signal there.
            os.posix_fallocate(self.descriptor, 0, size)
            new.rename(self.path)
        except OSError:
            os.close(self.descriptor)
            new.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def _remove_orphans(directory: Path) -> None:
    for path in directory.glob(f"{_PREFIX}*"):
        with _opened(path) as descriptor:
            if descriptor is not None and _lock_is_free(descriptor):
                path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """None for what is not ours to open, or gone."""
    try:
        descriptor = _open(path.parent, path.name)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _open(directory: Path, name: str) -> int:
    descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, f"{name} is no file")
    return descriptor


def _usable(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.R_OK | os.W_OK | os.X_OK)


def _is_large(array: NDArray[Any]) -> bool:
    return array.nbytes >= SMALLEST_BYTES and array.dtype.name in _DTYPES


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
