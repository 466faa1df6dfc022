"""``acl.rt``: devices, contexts, streams, memory."""

from __future__ import annotations

import ctypes
import threading

from .state import POISON, Context, HostMemory, Refused, Stream, api, simulator

_HOST_TO_HOST, _HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = range(4)


def _nothing(code: int) -> tuple[int, int]:
    return 0, code


@api("rt.set_device")
def set_device(device: int) -> int:
    if not 0 <= device < simulator.device_count:
        raise Refused(107001, f"no device {device}")
    if not simulator.devices.get(device):
        handle = simulator.handle()
        simulator.contexts[handle] = Context(device)
        simulator.primary[device] = handle
    simulator.devices[device] = simulator.devices.get(device, 0) + 1
    simulator.thread.device, simulator.thread.context = device, 0
    return 0


@api("rt.reset_device")
def reset_device(device: int) -> int:
    if not simulator.devices.get(device):
        raise Refused(507007, f"device {device} was not set as often", rule=18)
    simulator.devices[device] -= 1
    if simulator.devices[device] == 0:
        _end_device(device)
    return 0


def _end_device(device: int) -> None:
    of_device = [handle for handle, context in simulator.contexts.items() if context.device == device]
    alive = {
        "models": sum(model.context in of_device for model in simulator.models.values()),
        "streams": sum(stream.context in of_device for stream in simulator.streams.values()),
        "contexts": sum(simulator.contexts[h].alive and h not in simulator.primary.values() for h in of_device),
    }
    if any(alive.values()):
        simulator.violation(18, f"reset_device({device}) with {alive}")
    for handle in of_device:
        simulator.contexts[handle].alive = False
        simulator.contexts[handle].released_code = 507007


@api("rt.create_context", fail=_nothing)
def create_context(device: int) -> tuple[int, int]:
    if not 0 <= device < simulator.device_count:
        raise Refused(107001, f"no device {device}")
    handle = simulator.handle()
    simulator.contexts[handle] = Context(device)
    simulator.thread.context, simulator.thread.device = handle, None
    return handle, 0


@api("rt.set_context")
def set_context(context: int) -> int:
    if not context:
        raise Refused(100000, "null context", rule=5)
    known = simulator.contexts.get(context)
    if known is None or not known.alive:
        raise Refused(107002, "the context was destroyed or never was", rule=5)
    simulator.thread.context, simulator.thread.device = context, None
    return 0


@api("rt.get_context", fail=_nothing)
def get_context() -> tuple[int, int]:
    return (simulator.thread.context, 0) if simulator.thread.context else (0, 107002)


@api("rt.destroy_context")
def destroy_context(context: int) -> int:
    known = simulator.contexts.get(context)
    if known is None or not known.alive or context in simulator.primary.values():
        raise Refused(107002, "no context of its own, or destroyed already", rule=5)
    models = sum(model.context == context for model in simulator.models.values())
    streams = sum(stream.context == context for stream in simulator.streams.values())
    if models or streams:
        simulator.violation(18, f"destroy_context with {models} models and {streams} streams")
        known.released_code = 507007
    known.alive = False
    simulator.forget_dead_contexts()
    if simulator.thread.context == context:
        simulator.thread.context, simulator.thread.device = 0, None
    return 0


@api("rt.create_stream", fail=_nothing)
def create_stream() -> tuple[int, int]:
    handle = simulator.handle()
    simulator.streams[handle] = Stream(simulator.current())
    return handle, 0


@api("rt.destroy_stream")
def destroy_stream(stream: int) -> int:
    if _stream(stream).context != simulator.current():
        raise Refused(107003, "the stream is of another context", rule=6)
    del simulator.streams[stream]
    return 0


@api("rt.synchronize_stream")
def synchronize_stream(stream: int) -> int:
    deferred = _stream(stream).deferred
    while deferred:
        deferred.pop(0)()
    return 0


def _stream(handle: int) -> Stream:
    stream = simulator.streams.get(handle)
    if stream is None:
        raise Refused(107003, "unknown stream", rule=6)
    return stream


@api("rt.get_run_mode", fail=_nothing)
def get_run_mode() -> tuple[int, int]:
    return 0, 0


@api("rt.malloc", fail=_nothing)
def malloc(size: int, policy: int) -> tuple[int, int]:
    simulator.current()
    if size <= 0 or policy not in range(6):
        raise Refused(100000, f"malloc({size}, {policy})", rule=7)
    with simulator.lock:
        return simulator.allocate(size), 0


@api("rt.free")
def free(pointer: int) -> int:
    with simulator.lock:
        if pointer not in simulator.blocks:
            raise Refused(107000, f"{pointer:#x} is no device block, or was freed", rule=8)
        del simulator.blocks[pointer]
    return 0


@api("rt.malloc_host", fail=_nothing)
def malloc_host(size: int) -> tuple[int, int]:
    simulator.current()
    if size <= 0:
        raise Refused(100000, f"malloc_host({size})", rule=7)
    buffer = (ctypes.c_uint8 * size)()
    ctypes.memset(buffer, POISON, size)
    with simulator.lock:
        return simulator.remember(HostMemory(ctypes.addressof(buffer), size, buffer=buffer)), 0


@api("rt.free_host")
def free_host(pointer: int) -> int:
    memory = simulator.hosts.get(pointer)
    if memory is None or memory.buffer is None or not memory.live:
        raise Refused(107000, f"{pointer:#x} is not from malloc_host, or was freed", rule=8)
    ctypes.memset(memory.buffer, POISON, memory.size)
    memory.live = False
    return 0


@api("rt.memcpy")
def memcpy(target: int, room: int, source: int, count: int, kind: int) -> int:
    simulator.current()
    if not target or not source or kind not in range(4):
        raise Refused(100000, f"null pointer, or kind {kind}", rule=9)
    if count > room:
        raise Refused(107000, f"{count} bytes into room for {room}", rule=9)
    if count == 0:
        return 0
    with simulator.lock:
        data = _from_host(source, count) if kind in (0, 1) else _from_device(source, count)
        if kind in (_HOST_TO_DEVICE, _DEVICE_TO_DEVICE):
            block, offset = simulator.block_at(target, count, "target")
            block.data[offset : offset + count] = data
            block.written[offset : offset + count] = b"\1" * count
            block.thread = threading.get_ident()
        else:
            simulator.host_at(target, count, "target")
            ctypes.memmove(target, data, count)
    return 0


def _from_host(source: int, count: int) -> bytes:
    memory = simulator.host_at(source, count, "source")
    if memory.collected:
        simulator.violation(10, "acl.rt.memcpy from an object that was collected")
        return bytes([POISON]) * count
    return ctypes.string_at(source, count)


def _from_device(source: int, count: int) -> bytes:
    block, offset = simulator.block_at(source, count, "source")
    if block.pending:
        simulator.violation(14, "acl.rt.memcpy of an output before synchronize_stream")
        return bytes([POISON]) * count
    if block.thread not in (0, threading.get_ident()):
        simulator.violation(13, "acl.rt.memcpy of an output that another thread computed")
    return bytes(block.data[offset : offset + count])
