"""Ends a launcher's processes when the launcher is gone, however it went.

The launcher runs this file as a process of its own and tells it over standard input which process groups live
(``+ 123``) and which have ended (``- 123``). End of input means that the launcher is gone, even by SIGKILL: what still
lives is ended then. Unlike ``PR_SET_PDEATHSIG`` this neither depends on the thread that started a process nor needs
code in the process itself. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TextIO

GRACE_S = 5.0


def watch(orders: TextIO) -> set[int]:
    """Follow the orders to their end; the process groups that live then."""
    alive: set[int] = set()
    for line in orders:
        sign, _, number = line.strip().partition(" ")
        if number.isdecimal():
            (alive.add if sign == "+" else alive.discard)(int(number))
    return alive


def send(group: int, number: signal.Signals) -> bool:
    """Signal a process group; whether it still exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end(groups: set[int], grace_s: float = GRACE_S) -> None:
    """SIGTERM, and SIGKILL to what is left after ``grace_s``."""
    alive = {group for group in groups if send(group, signal.SIGTERM)}
    deadline = time.monotonic() + grace_s
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = {group for group in alive if _exists(group)}
    for group in alive:
        send(group, signal.SIGKILL)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    # The launcher handles what a terminal sends to everyone; the guard goes last.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    end(watch(sys.stdin))
