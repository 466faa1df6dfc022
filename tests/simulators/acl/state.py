"""What the simulated process holds: the tables behind every handle, the journal, the faults to inject."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

POISON = 0xCD
HANG = -1
"""In place of a code: a call that never returns."""
_MAX_REMEMBERED_POINTERS = 32


RULES = {
    1: "models are used after init and before finalize",
    3: "finalize is called once",
    4: "a thread binds a context before it calls",
    5: "only live contexts are bound and destroyed",
    6: "load, execute, unload and streams stay in one context",
    7: "memory is asked for with a size and a known policy",
    8: "memory is freed once, by its own function",
    9: "copies stay inside live memory of the kind that they name",
    10: "host memory outlives its address",
    11: "datasets match the model, to the byte, and are alive",
    12: "only loaded models and live descriptions are used",
    13: "one thread at a time writes the inputs of a model, executes it and reads its outputs",
    14: "outputs of execute_async are read after synchronize_stream",
    15: "inputs are written before they are executed",
    16: "indices are those of the model",
    17: "data buffers live as long as their datasets are executed, and are destroyed once",
    18: "models and streams go before their context, contexts before their device",
    19: "all is released before finalize and before the end",
    21: "memory of a data buffer starts at a multiple of 64 bytes",
}
"""What the journal names. 1 to 20 are those of table A.9, of which 2 (a second init is told and allowed) and 20 (the
n-th call fails on demand) break nothing; 21 is of the page of aclrtMalloc."""


class Refused(Exception):
    """A call that returns ``code``; with a ``rule`` of :data:`RULES` it also goes to the journal."""

    def __init__(self, code: int, text: str, rule: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.rule = rule


@dataclass
class Context:
    device: int
    alive: bool = True
    released_code: int = 107002


@dataclass
class Block:
    """Device memory. ``written`` has one flag per byte; ``pending`` is the stream whose results it awaits; ``thread``
    filled it last, and has not handed it on yet."""

    address: int
    data: bytearray
    written: bytearray
    pending: int = 0
    thread: int = 0

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass
class HostMemory:
    """Host memory that pyACL was told of: its own (``owner`` None), or a Python object's, kept to notice its end."""

    address: int
    size: int
    buffer: Any = None
    owner: Any = None
    live: bool = True

    @property
    def collected(self) -> bool:
        # This table's reference and the argument's: nobody else holds it.
        return self.owner is not None and sys.getrefcount(self.owner) <= 2


@dataclass
class Model:
    session: Any
    context: int
    inputs: list[Any]
    outputs: list[Any]
    busy: bool = False


@dataclass
class DataBuffer:
    pointer: int
    size: int


@dataclass
class Stream:
    context: int
    deferred: list[Callable[[], None]] = field(default_factory=list)


class Thread(threading.local):
    context = 0
    device: int | None = None
    message: str | None = None


class Simulator:
    """All state of one process. ``journal`` lists the violations; :meth:`leaks` what is still allocated."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread = Thread()
        self.journal: list[str] = []
        self.reset()
        atexit.register(self._at_exit)

    def reset(self) -> None:
        """As in a fresh process, except for the addresses, which are never given twice."""
        self.journal.clear()
        self.initialised = False
        self.finalised = False
        self.calls: dict[str, int] = {}
        self.faults = _faults_from_environment()
        self.soc = os.environ.get("ACL_SIM_SOC", "Ascend310B4")
        self.device_count = 1
        self.memory_limit = 8 * 2**30
        self.trusts_addresses = False
        """Whether host addresses are good that no call of pyACL gave out, as where it gives none out for arrays."""
        self.handles = getattr(self, "handles", None) or itertools.count(0x5000_0000_0000, 0x40)
        self.addresses = getattr(self, "addresses", None) or 0x1_0000_0000
        self.thread = Thread()
        self.clear()

    def clear(self) -> None:
        self.devices: dict[int, int] = {}
        self.primary: dict[int, int] = {}
        self.contexts: dict[int, Context] = {}
        self.streams: dict[int, Stream] = {}
        self.models: dict[int, Model] = {}
        self.descs: dict[int, int] = {}
        self.datasets: dict[int, list[int]] = {}
        self.buffers: dict[int, DataBuffer] = {}
        self.blocks: OrderedDict[int, Block] = OrderedDict()
        self.hosts: OrderedDict[int, HostMemory] = OrderedDict()

    def fail(self, function: str, nth: int, code: int) -> None:
        """The ``nth`` call of ``function`` (``mdl.execute``) from now on returns ``code``."""
        self.faults[(function, self.calls.get(function, 0) + nth)] = code

    def violation(self, rule: int, text: str) -> None:
        assert rule in RULES
        line = f"A.9 rule {rule}: {text} [thread {threading.current_thread().name}]"
        self.journal.append(line)
        if target := os.environ.get("ACL_SIM_JOURNAL"):
            with Path(target).open("a") as stream:
                stream.write(f"{os.getpid()} {line}\n")
        if target := os.environ.get("SIMULATOR_JOURNAL"):
            with Path(target).open("a") as stream:
                stream.write(f"acl {rule}\t{line} [{os.environ.get('PYTEST_CURRENT_TEST', 'no test')}]\n")

    def leaks(self) -> list[str]:
        """What was not released, one line per kind."""
        pinned = [memory for memory in self.hosts.values() if memory.buffer is not None and memory.live]
        alive = {
            "device blocks": len(self.blocks),
            "host blocks": len(pinned),
            "data buffers": len(self.buffers),
            "datasets": len(self.datasets),
            "descriptions": len(self.descs),
            "models": len(self.models),
            "streams": len(self.streams),
            "contexts": sum(c.alive for h, c in self.contexts.items() if h not in self.primary.values()),
            "set_device without reset_device": sum(self.devices.values()),
        }
        return [f"{count} {kind}" for kind, count in alive.items() if count]

    def forget_dead_contexts(self) -> None:
        """All but the last, so that nothing grows."""
        for handle in [handle for handle, context in self.contexts.items() if not context.alive][:-8]:
            del self.contexts[handle]

    def handle(self) -> int:
        return next(self.handles)

    def current(self) -> int:
        """Handle of the calling thread's context."""
        if self.thread.context:
            context = self.contexts.get(self.thread.context)
            if context is None or not context.alive:
                code = context.released_code if context else 107002
                raise Refused(code, "the thread's context was destroyed", rule=18)
            return self.thread.context
        device = self.thread.device
        if device is None or not self.devices.get(device):
            raise Refused(107002, "this thread has no context", rule=4)
        return self.primary[device]

    def allocate(self, size: int) -> int:
        if sum(block.size for block in self.blocks.values()) + size > self.memory_limit:
            raise Refused(207001, "out of device memory")
        address = self.addresses
        self.addresses += ((size + 63) // 32 * 32 + 4096 + 63) // 64 * 64
        self.blocks[address] = Block(address, bytearray([POISON]) * size, bytearray(size))
        return address

    def block_at(self, pointer: int, count: int, what: str) -> tuple[Block, int]:
        """The device block that holds ``pointer`` to ``pointer + count``, and the offset in it."""
        for block in self.blocks.values():
            if block.address <= pointer < block.address + block.size:
                if pointer + count > block.address + block.size:
                    raise Refused(107000, f"{what}: {count} bytes leave a block of {block.size}", rule=9)
                return block, pointer - block.address
        raise Refused(107000, f"{what}: {pointer:#x} is in no live device block", rule=9)

    def host_at(self, pointer: int, count: int, what: str) -> HostMemory:
        for memory in reversed(self.hosts.values()):
            if memory.address <= pointer < memory.address + memory.size:
                if not memory.live:
                    raise Refused(107000, f"{what}: host memory used after free_host", rule=9)
                if pointer + count > memory.address + memory.size:
                    raise Refused(107000, f"{what}: {count} bytes leave host memory of {memory.size}", rule=9)
                return memory
        if self.trusts_addresses:
            return HostMemory(pointer, count)
        raise Refused(107000, f"{what}: {pointer:#x} is no host memory that acl was told of", rule=9)

    def remember(self, memory: HostMemory) -> int:
        """Enter host memory. Old pointers to objects long gone are forgotten, so that nothing grows."""
        self.hosts.pop(memory.address, None)
        self.hosts[memory.address] = memory
        if len(self.hosts) > _MAX_REMEMBERED_POINTERS:
            for address in [a for a, m in self.hosts.items() if m.collected][:-8]:
                del self.hosts[address]
        return memory.address

    def _at_exit(self) -> None:
        for leak in self.leaks():
            self.violation(19, f"at exit: {leak}")


def _faults_from_environment() -> dict[tuple[str, int], int]:
    faults = {}
    for entry in filter(None, os.environ.get("ACL_SIM_FAULTS", "").split(",")):
        call, _, code = entry.partition("=")
        function, _, nth = call.partition(":")
        faults[(function, int(nth))] = HANG if code == "hang" else int(code)
    return faults


def _hang() -> None:
    if told := os.environ.get("ACL_SIM_HANGING"):
        Path(told).touch()
    time.sleep(3600)


simulator = Simulator()


def api(
    name: str, fail: Callable[[int], Any] = lambda code: code
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A pyACL function: counted, made to fail on demand, and never raising. ``fail`` shapes what it returns then."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any) -> Any:
            with simulator.lock:
                count = simulator.calls[name] = simulator.calls.get(name, 0) + 1
                code = simulator.faults.pop((name, count), None)
            if code == HANG:
                _hang()
            try:
                if code is not None:
                    raise Refused(code, f"fault injected into call {count} of acl.{name}")
                return function(*arguments)
            except Refused as refused:
                simulator.thread.message = f"EZ9999: acl.{name}: {refused}"
                if refused.rule:
                    simulator.violation(refused.rule, f"acl.{name}: {refused}")
                return fail(refused.code)

        return call

    return decorate
