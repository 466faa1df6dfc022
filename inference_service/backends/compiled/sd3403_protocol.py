"""What a SD3403 worker reads on its standard input and writes on its standard output. Bytes only, no processes.

Little endian, no padding, one request in flight::

    request    magic u32, version u16, input_count u16, request_id u32, reserved u32
    per input  index u32, byte_size u32, reserved u32; then the payload, float32 in C order
    reply      magic u32, version u16, status u16, request_id u32, output_count u32, latency_us u32,
               error_code i32, error_size u32
    per output index u32, elem_type u32, elem_count u32, byte_size u32, dim_count u32, reserved u32;
               then dim_count dims u64; then the payload
    at the end error_size bytes of UTF-8

Source: ``sd3403_protocol.py`` of IB-Robot's inference_service, which defines what a worker must speak. Vendor
libraries print to standard output too, so a reply is searched for by its magic.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import InferenceFailed

MAGIC = 0x53565031
VERSION = 1
MAX_CHATTER_BYTES = 1 << 20
MAX_OUTPUTS = 32
MAX_DIMS = 8
# Of one output, and of all outputs of one reply together.
MAX_OUTPUT_BYTES = 1 << 28
MAX_ERROR_BYTES = 1 << 16

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_REQUEST = struct.Struct("<IHHII")
_INPUT = struct.Struct("<III")
# Without the magic, which was found by searching.
_REPLY = struct.Struct("<HHIIIiI")
_OUTPUT = struct.Struct("<IIIIII")
_TYPES = {1: "<f4", 2: "<f2", 3: "i1", 4: "u1", 5: "<i4", 6: "<i8"}


class WorkerBroken(InferenceFailed):
    """The worker is gone, silent or out of step: it must be ended, and may be started again."""


class WorkerRefused(InferenceFailed):
    """The worker answered that this inference failed. Both sides are in step and it lives on."""


class Source(Protocol):
    """Where a reply is read from. Both methods keep a deadline of their own."""

    def skip_past(self, mark: bytes, limit: int) -> None:
        """Drop everything up to and including ``mark``, ``limit`` bytes before it at most."""
        ...

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        ...


@dataclass(frozen=True)
class Reply:
    """``outputs`` by index, each owning its memory and in its declared dims (flat where none are declared)."""

    outputs: Mapping[int, NDArray[Any]]
    latency_us: int


def request(request_id: int, inputs: Sequence[NDArray[np.float32]]) -> list[memoryview]:
    """The bytes of a request, as pieces to write one after the other. Payloads are not copied."""
    pieces = [memoryview(_REQUEST.pack(MAGIC, VERSION, len(inputs), request_id & 0xFFFFFFFF, 0))]
    for index, array in enumerate(inputs):
        payload = np.ascontiguousarray(array, "<f4")
        pieces.append(memoryview(_INPUT.pack(index, payload.nbytes, 0)))
        pieces.append(payload.reshape(-1).view(np.uint8).data)
    return pieces


def read_reply(source: Source, request_id: int) -> Reply:
    """The reply to ``request_id``, vendors' chatter before it skipped.

    Raises:
        WorkerRefused: the worker says that the inference failed.
        WorkerBroken: what came is no reply to this request, or outside of the bounds.
    """
    source.skip_past(_MAGIC_BYTES, MAX_CHATTER_BYTES)
    version, status, answered, count, latency_us, code, error_size = _REPLY.unpack(source.read(_REPLY.size))
    if version != VERSION:
        raise WorkerBroken(f"the worker speaks version {version} of its protocol, this reader {VERSION}")
    if answered != request_id & 0xFFFFFFFF:
        raise WorkerBroken(f"the worker answered request {answered}, asked was {request_id}")
    if count > MAX_OUTPUTS or error_size > MAX_ERROR_BYTES:
        raise WorkerBroken(
            f"the worker announces {count} outputs and {error_size} bytes of error text, "
            f"more than {MAX_OUTPUTS} and {MAX_ERROR_BYTES}"
        )
    outputs = _read_outputs(source, count)
    text = source.read(error_size).decode("utf-8", errors="replace")
    if status != 0:
        raise WorkerRefused(f"the worker could not infer (status {status}, error code {code}): {text or 'no text'}")
    return Reply(outputs, latency_us)


def _read_outputs(source: Source, count: int) -> dict[int, NDArray[Any]]:
    outputs: dict[int, NDArray[Any]] = {}
    room = MAX_OUTPUT_BYTES
    for _ in range(count):
        index, array = _read_output(source, room)
        if index in outputs:
            raise WorkerBroken(f"the worker sent output {index} twice")
        outputs[index] = array
        room -= array.nbytes
    return outputs


def _read_output(source: Source, room: int) -> tuple[int, NDArray[Any]]:
    index, kind, count, size, dim_count, _ = _OUTPUT.unpack(source.read(_OUTPUT.size))
    if kind not in _TYPES:
        raise WorkerBroken(f"output {index} of the worker has element type {kind}, known are 1 to {len(_TYPES)}")
    dtype = np.dtype(_TYPES[kind])
    if size != count * dtype.itemsize:
        raise WorkerBroken(f"output {index} of the worker: {count} elements of {dtype.name} are not {size} bytes")
    if dim_count > MAX_DIMS or size > room:
        raise WorkerBroken(
            f"output {index} of the worker has {dim_count} dims and {size} bytes, more than {MAX_DIMS} and {room}"
        )
    dims = struct.unpack(f"<{dim_count}Q", source.read(8 * dim_count))
    if dims and math.prod(dims) != count:
        raise WorkerBroken(f"output {index} of the worker: dims {list(dims)} do not hold {count} elements")
    array = np.frombuffer(source.read(size), dtype).copy()
    return index, array.reshape(dims) if dims else array
