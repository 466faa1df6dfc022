"""Real-time scheduling of the control thread: Linux's ``SCHED_FIFO``, a choice of cores, locked memory (sched(7),
mlockall(2)). Off by default: it wants a privilege, and a thread that spins under it takes its core for good."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

_MCL_CURRENT_AND_FUTURE = 3
_TRY_S = 5.0
_SWITCH_INTERVAL_S = 0.0005
"""How long another Python thread of the process may keep the interpreter once the control thread wants it."""


@dataclass(frozen=True)
class Scheduling:
    """``priority`` 1 to 99 of ``SCHED_FIFO``, 0 for the ordinary scheduler; ``cpus`` to run on, none for all."""

    priority: int = 0
    cpus: tuple[int, ...] = ()

    @property
    def wanted(self) -> bool:
        return bool(self.priority or self.cpus)

    def check(self) -> None:
        """Try it on a thread made for that.

        Raises:
            ValueError: the machine refuses; says which key, and what allows it.
        """
        refusals: list[ValueError] = []
        thread = threading.Thread(target=_collect, args=(self.apply, refusals), name="scheduling", daemon=True)
        thread.start()
        thread.join(_TRY_S)
        if thread.is_alive():
            raise ValueError(
                f"real_time_priority and cpu_affinity were not in force after {_TRY_S:g} s: leave them out"
            )
        if refusals:
            raise refusals[0]

    def apply(self) -> None:
        """Put the calling thread under it, and with a ``priority`` keep the process's memory from being paged out.

        Raises:
            ValueError: as :meth:`check`.
        """
        if not self.wanted:
            return
        if sys.platform != "linux":
            raise ValueError(f"real_time_priority and cpu_affinity are Linux's; this is {sys.platform}: leave them out")
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        if self.cpus:
            _pin(self.cpus)
        if self.priority:
            _raise_priority(self.priority)
            _lock_memory()


def _collect(apply: Callable[[], None], refusals: list[ValueError]) -> None:
    try:
        apply()
    except ValueError as error:
        refusals.append(error)


def _pin(cpus: tuple[int, ...]) -> None:
    # The cores of the process, not of this thread: a container may have been given only some of the machine's.
    allowed = os.sched_getaffinity(os.getpid())
    if not set(cpus) <= allowed:
        raise ValueError(f"cpu_affinity {list(cpus)}: this process may run on {sorted(allowed)} alone")
    os.sched_setaffinity(0, cpus)


def _raise_priority(priority: int) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        raise ValueError(
            f"real_time_priority {priority} is not permitted ({error.strerror}): give the user an rtprio of {priority} "
            "or more in /etc/security/limits.conf, or the container cap_add: [SYS_NICE] and ulimits: {rtprio: 99}; "
            "or leave the key out"
        ) from error


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT_AND_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ValueError(
            f"real_time_priority: the memory cannot be locked ({reason}): raise memlock in /etc/security/limits.conf, "
            "or give the container ulimits: {memlock: -1}; or leave the key out"
        )
