"""Memory that a device shares with an engine on the same machine: used where it is found, given up where it fails."""

from __future__ import annotations

import logging
from pathlib import Path

from inference_service.wire.card import EngineCard
from inference_service.wire.shared_memory import SharedRing, sees


class DeviceMemory:
    """``directory`` empty: nothing is shared. To be used from one thread at a time, but for :meth:`close`."""

    def __init__(self, directory: str, logger: logging.Logger) -> None:
        self._directory = Path(directory) if directory else None
        self._logger = logger
        self._ring: SharedRing | None = None
        self._token = ""
        self._seen = False

    def ring(self, card: EngineCard | None) -> SharedRing | None:
        """Where the payloads of a request to the engine of ``card`` may go, or None: into the message."""
        if self._directory is None or card is None or not card.shared_memory:
            return None
        if card.shared_memory != self._token:
            self._token = card.shared_memory
            self._seen = sees(self._token, self._directory)
            if self._seen:
                self._logger.info("Pictures go to the engine through shared memory (%s)", self._directory)
        if not self._seen:
            return None
        if self._ring is None:
            self._ring = SharedRing(self._directory)
        return self._ring

    def give_up(self, reason: object) -> None:
        """Something went wrong with it: payloads travel in messages until another engine comes."""
        if self._seen:
            self._seen = False
            self._logger.warning("Shared memory given up, pictures travel in messages: %s", reason)
        self.close()

    def close(self) -> None:
        """Remove what was put there. Idempotent."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
