"""What a node says of itself on any transport: what its callbacks raised, and peers that do not fit."""

from __future__ import annotations

import logging
import threading
import time

_TRACEBACK_EVERY_S = 1.0

CANCELS_UNKNOWN_GOALS = "{}: a client cancels goals that are not known here: nothing to cancel"


class ErrorLog:
    """Logs what leaves callbacks with its traceback, at most once a second for each; ``count`` counts all."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._quiet: dict[str, tuple[float, int]] = {}
        self.count = 0

    def report(self, where: str, error: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            self.count += 1
            until, hidden = self._quiet.get(where, (0.0, 0))
            if now < until:
                self._quiet[where] = (until, hidden + 1)
                return
            self._quiet[where] = (now + _TRACEBACK_EVERY_S, 0)
        more = f" ({hidden} more like it since the last report)" if hidden else ""
        self._logger.error("%s failed%s: %s", where, more, error, exc_info=error)


class Conflicts:
    """Disagreements with peers; each is logged and kept once."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.told: list[str] = []

    def report(self, text: str) -> None:
        if text not in self.told:
            self.told.append(text)
            self._logger.warning("%s", text)
