"""``acl`` itself: init, finalize, data buffers."""

from __future__ import annotations

from .state import DataBuffer, Refused, api, simulator


@api("init")
def init(config: str | None = None) -> int:
    if simulator.initialised:
        raise Refused(100002, "initialised already")
    simulator.initialised = True
    simulator.finalised = False
    return 0


@api("finalize")
def finalize() -> int:
    if simulator.finalised:
        raise Refused(100037, "finalised already", rule=3)
    for leak in simulator.leaks():
        simulator.violation(19, f"at finalize: {leak}")
    simulator.initialised = False
    simulator.finalised = True
    simulator.clear()
    return 0


def get_soc_name() -> str:
    return simulator.soc


def get_recent_err_msg() -> str | None:
    """Per thread, cleared by reading."""
    message, simulator.thread.message = simulator.thread.message, None
    return message


@api("create_data_buffer", fail=lambda _: 0)
def create_data_buffer(pointer: int, size: int) -> int:
    if not pointer or not size:
        raise Refused(100000, "null pointer or size 0", rule=9)
    handle = simulator.handle()
    simulator.buffers[handle] = DataBuffer(pointer, size)
    return handle


@api("destroy_data_buffer")
def destroy_data_buffer(buffer: int) -> int:
    if simulator.buffers.pop(buffer, None) is None:
        raise Refused(100000, "unknown data buffer", rule=17)
    return 0
