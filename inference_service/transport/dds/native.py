"""The calls of the DDS library that cyclonedds-python lacks or makes too dear, through ctypes.

cyclonedds-python sends and takes with the interpreter lock held, which stops every thread of the process, the
control tick included, while megabytes go through the kernel; and it copies a taken sample twice. The calls here
release the lock, and a taken sample is a read-only view of the library's own buffer. They use only exported
functions that 0.10.x and 11.x share, but for one: where the library does not tell the type of a writer (0.10.x),
a sample in parts is put together before it is handed over.
"""

from __future__ import annotations

import ctypes as ct
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from cyclonedds.core import Entity, InstanceState, SampleState, ViewState
from cyclonedds.internal import DDS

Buffer = bytes | bytearray | memoryview
Part: TypeAlias = Any
"""Anything with contiguous bytes."""

SMALL = 8192
"""Bytes up to which a sample is copied: cheaper than keeping a reference to the library's buffer."""
FOREVER_NS = 2**63 - 1
_DATA_KIND = 2  # ddsi_serdata_kind: SDK_DATA
_BAD_PARAMETER = -3  # DDS_RETCODE_BAD_PARAMETER
_ANY_STATE = SampleState.Any | ViewState.Any | InstanceState.Any

# Instances of our own: cyclonedds-python sets other prototypes on the functions of its instance. The second keeps the
# interpreter lock, for calls that are over sooner than giving it up and asking for it again.
_library = ct.CDLL(DDS._dll_handle._name)
_short = ct.PyDLL(DDS._dll_handle._name)


class _Sample(ct.Structure):
    """What cyclonedds-python's type support takes as a sample (``cyclonedds.topic.Sample``)."""

    _fields_ = (("data", ct.c_void_p), ("size", ct.c_size_t))


class _IoVector(ct.Structure):
    _fields_ = (("base", ct.c_void_p), ("length", ct.c_size_t))


class _Part(ct.Structure):
    """The same to read from; ``base`` takes an address, or bytes, which it keeps alive."""

    _fields_ = (("base", ct.c_char_p), ("length", ct.c_size_t))


class _SampleInfo(ct.Structure):
    """``dds_sample_info_t``."""

    _fields_ = (
        ("sample_state", ct.c_int),
        ("view_state", ct.c_int),
        ("instance_state", ct.c_int),
        ("valid_data", ct.c_bool),
        ("source_timestamp", ct.c_int64),
        ("instance_handle", ct.c_uint64),
        ("publication_handle", ct.c_uint64),
        ("counts_and_ranks", ct.c_uint32 * 5),
    )


class _Endpoint(ct.Structure):
    """``dds_builtintopic_endpoint_t``."""

    _fields_ = (
        ("key", ct.c_uint8 * 16),
        ("participant_key", ct.c_uint8 * 16),
        ("participant_instance_handle", ct.c_uint64),
        ("topic_name", ct.c_void_p),
        ("type_name", ct.c_void_p),
        ("qos", ct.c_void_p),
    )


def _function(name: str, result: Any, *arguments: Any, library: ct.CDLL = _library) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


def _optional(name: str, result: Any, *arguments: Any, library: ct.CDLL = _library) -> Any:
    return _function(name, result, *arguments, library=library) if hasattr(_library, name) else None


_entity = ct.c_int32
_delete = _function("dds_delete", ct.c_int32, _entity)
_write = _function("dds_write", ct.c_int32, _entity, ct.c_void_p)
_takecdr = _function("dds_takecdr", ct.c_int32, _entity, ct.c_void_p, ct.c_uint32, ct.c_void_p, ct.c_uint32)
_writecdr = _function("dds_writecdr", ct.c_int32, _entity, ct.c_void_p)
_get_sertype = _optional("dds_get_entity_sertype", ct.c_int32, _entity, ct.c_void_p, library=_short)
_serdata_from_iov = _function(
    "ddsi_serdata_from_ser_iov", ct.c_void_p, ct.c_void_p, ct.c_int, ct.c_size_t, ct.c_void_p, ct.c_size_t
)
_serdata_size = _function("ddsi_serdata_size", ct.c_uint32, ct.c_void_p, library=_short)
_serdata_to_ser_ref = _function(
    "ddsi_serdata_to_ser_ref", ct.c_void_p, ct.c_void_p, ct.c_size_t, ct.c_size_t, ct.c_void_p, library=_short
)
_serdata_unref = _function("ddsi_serdata_unref", None, ct.c_void_p, library=_short)
_create_waitset = _function("dds_create_waitset", _entity, _entity)
_waitset_attach = _function("dds_waitset_attach", ct.c_int32, _entity, _entity, ct.c_ssize_t)
_waitset_detach = _function("dds_waitset_detach", ct.c_int32, _entity, _entity)
_waitset_wait = _function("dds_waitset_wait", ct.c_int32, _entity, ct.c_void_p, ct.c_size_t, ct.c_int64)
_create_guard = _function("dds_create_guardcondition", _entity, _entity)
_set_guard = _function("dds_set_guardcondition", ct.c_int32, _entity, ct.c_bool)
_create_readcondition = _function("dds_create_readcondition", _entity, _entity, ct.c_uint32)
_free = _function("dds_free", None, ct.c_void_p)
_matched_readers = _function("dds_get_matched_subscriptions", ct.c_int32, _entity, ct.c_void_p, ct.c_size_t)
_matched_writers = _function("dds_get_matched_publications", ct.c_int32, _entity, ct.c_void_p, ct.c_size_t)
_reader_data = _function("dds_get_matched_subscription_data", ct.POINTER(_Endpoint), _entity, ct.c_uint64)
_writer_data = _function("dds_get_matched_publication_data", ct.POINTER(_Endpoint), _entity, ct.c_uint64)
_free_endpoint = _function("dds_builtintopic_free_endpoint", None, ct.POINTER(_Endpoint))
_qget_userdata = _function("dds_qget_userdata", ct.c_bool, ct.c_void_p, ct.c_void_p, ct.c_void_p)


_MALLOC_OPTIONS = {-3: 32 << 20, -1: 64 << 20}  # M_MMAP_THRESHOLD (its largest), M_TRIM_THRESHOLD


def keep_freed_memory() -> None:
    """Have the C library keep what was freed, up to 64 MiB: by itself it gives every message of megabytes back to the
    kernel and has it mapped, page by page, for the next one, which costs as much as sending it. glibc alone; where
    the environment sets a ``MALLOC_`` variable, that counts."""
    mallopt = getattr(ct.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    for option, value in _MALLOC_OPTIONS.items():
        mallopt(option, value)


class NativeError(Exception):
    """A negative return code of the DDS library."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} returned {code}")
        self.code = code


def _checked(call: str, code: int) -> int:
    if code < 0:
        raise NativeError(call, code)
    return code


def delete(entity: Entity) -> None:
    """Delete a DDS entity now instead of whenever Python collects it. Idempotent."""
    if Entity._entities.pop(entity._ref, None) is not None:
        _delete(entity._ref)


def padded(cdr: Buffer) -> Buffer:
    """``cdr`` with its length rounded up to a multiple of 4, which is what the library sends."""
    missing = -len(cdr) % 4
    return bytes(cdr) + bytes(missing) if missing else cdr


class Giver:
    """Sends ready CDR by one writer. Safe to use from several threads."""

    def __init__(self, writer: Entity) -> None:
        self._writer: int = writer._ref

    def write(self, cdr: Buffer) -> int:
        """The library's return code."""
        return self.write_parts([padded(cdr)])

    def write_parts(self, parts: Sequence[Part]) -> int:
        """Send the CDR that ``parts`` make up, copied from where they lie straight into the library's sample; the
        library's return code. None is empty, and together they are a multiple of 4 bytes."""
        sertype = ct.c_void_p()
        # Each time anew: it says that the writer is still there, without which its type may be gone too.
        if _get_sertype is None or _get_sertype(self._writer, ct.byref(sertype)) < 0:
            return self._write_joined(b"".join(memoryview(part).cast("B") for part in parts))
        vectors = (_Part * len(parts))(*map(_part, parts))
        size = sum(vector.length for vector in vectors)
        serdata = _serdata_from_iov(sertype, _DATA_KIND, len(parts), vectors, size)
        if not serdata:
            return _BAD_PARAMETER
        return int(_writecdr(self._writer, serdata))  # takes over the reference

    def _write_joined(self, cdr: bytes) -> int:
        view = np.frombuffer(cdr, np.uint8)
        return int(_write(self._writer, ct.byref(_Sample(view.ctypes.data, view.size))))


def _part(part: Part) -> _Part:
    if type(part) is bytes:
        return _Part(part, len(part))
    array = part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8)
    return _Part(array.__array_interface__["data"][0], array.nbytes)


class Taken(NamedTuple):
    """One sample: its CDR (encapsulation header included), the handle of the writer that sent it, and when that was by
    the sender's system clock (ns)."""

    cdr: Buffer
    writer: int
    sent_ns: int


class _Payload:
    """Keeps the library's sample alive for as long as a view into it lives."""

    def __init__(self, serdata: int, address: int, size: int) -> None:
        self._serdata = serdata
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}

    def __del__(self) -> None:
        _serdata_unref(self._serdata)


class Taker:
    """Takes samples of one reader, one by one. For one thread at a time."""

    def __init__(self, reader: Entity) -> None:
        self._reader: int = reader._ref
        self._serdata = ct.c_void_p()
        self._info = _SampleInfo()
        self._arguments = (ct.byref(self._serdata), 1, ct.byref(self._info), 0)

    def take(self) -> Taken | None:
        """The oldest waiting sample, or None. Notices without data (a writer left) are skipped.

        Raises:
            NativeError: the reader is gone.
        """
        while _checked("dds_takecdr", _takecdr(self._reader, *self._arguments)):
            serdata = self._serdata.value
            if self._info.valid_data and serdata is not None:
                return Taken(_payload(serdata), self._info.publication_handle, self._info.source_timestamp)
            _serdata_unref(serdata)
        return None


def _payload(serdata: int) -> Buffer:
    size = _serdata_size(serdata)
    vector = _IoVector()
    # The vector's reference is given back at once: the one that came with the sample keeps the bytes alive.
    _serdata_unref(_serdata_to_ser_ref(serdata, 0, size, ct.byref(vector)))
    if size <= SMALL:
        try:
            return ct.string_at(vector.base, size)
        finally:
            _serdata_unref(serdata)
    return np.asarray(_Payload(serdata, vector.base, size)).data


class WaitSet:
    """Waits for any of a changing set of readers to hold data, or for :meth:`wake`.

    ``attach`` and ``detach`` may be called while another thread waits. It ends with its participant.
    """

    _GUARD = 0

    def __init__(self, participant: Entity) -> None:
        self._ref = _checked("dds_create_waitset", _create_waitset(participant._ref))
        self._guard = _checked("dds_create_guardcondition", _create_guard(participant._ref))
        _checked("dds_waitset_attach", _waitset_attach(self._ref, self._guard, self._GUARD))
        self._conditions: dict[int, int] = {}
        self._triggered = (ct.c_ssize_t * 1)()

    def attach(self, reader: Entity, token: int) -> None:
        """Wake when ``reader`` holds samples; :meth:`wait` then names ``token`` (positive, one per reader)."""
        condition = _checked("dds_create_readcondition", _create_readcondition(reader._ref, _ANY_STATE))
        self._conditions[token] = condition
        _checked("dds_waitset_attach", _waitset_attach(self._ref, condition, token))

    def detach(self, token: int) -> None:
        condition = self._conditions.pop(token, None)
        if condition is not None:
            _waitset_detach(self._ref, condition)
            _delete(condition)

    def wake(self) -> None:
        """End the wait in progress, or the next one. Safe from any thread."""
        _set_guard(self._guard, True)

    def wait(self, timeout_ns: int) -> list[int]:
        """Tokens of the readers that hold samples; empty after :meth:`wake` or ``timeout_ns``."""
        size = len(self._conditions) + 1
        if len(self._triggered) < size:
            self._triggered = (ct.c_ssize_t * (2 * size))()
        room = len(self._triggered)
        code = _waitset_wait(self._ref, self._triggered, room, max(0, timeout_ns))
        tokens = self._triggered[: min(_checked("dds_waitset_wait", code), room)]
        if self._GUARD in tokens:
            _set_guard(self._guard, False)
            tokens.remove(self._GUARD)
        return tokens


def matched_readers(writer: Entity) -> list[int]:
    """Handles of the readers that ``writer`` reaches; empty once it is closed."""
    return _handles(_matched_readers, writer)


def matched_writers(reader: Entity) -> list[int]:
    """Handles of the writers that ``reader`` hears; empty once it is closed."""
    return _handles(_matched_writers, reader)


def reader_user_data(writer: Entity, handle: int) -> bytes | None:
    """USER_DATA of a matched reader, or None when it is not matched (any more)."""
    return _user_data(_reader_data(writer._ref, handle))


def writer_user_data(reader: Entity, handle: int) -> bytes | None:
    """USER_DATA of a matched writer, or None when it is not matched (any more)."""
    return _user_data(_writer_data(reader._ref, handle))


def _handles(lookup: Any, entity: Entity) -> list[int]:
    count = lookup(entity._ref, None, 0)
    if count <= 0:
        return []
    handles = (ct.c_uint64 * count)()
    found = min(count, lookup(entity._ref, handles, count))
    return cast("list[int]", handles[: max(0, found)])


def _user_data(endpoint: Any) -> bytes | None:
    if not endpoint:
        return None
    value, size = ct.c_void_p(), ct.c_size_t()
    try:
        if not _qget_userdata(endpoint.contents.qos, ct.byref(value), ct.byref(size)) or value.value is None:
            return b""
        return ct.string_at(value.value, size.value)
    finally:
        _free(value)
        _free_endpoint(endpoint)
