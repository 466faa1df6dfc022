"""How a device's pictures travel: what the robot's file asks for, as far as the engine takes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from inference_service.core.batch import AffineImage, Batch
from inference_service.wire.encodings import Codec
from robot_config.schema import DEFAULT_ENCODING

_USUAL = "u8"


class Encodings:
    """``wanted``: ``inference.encodings`` of a control mode (codec by key, ``default`` for the others; ``where`` is its
    place in the robot's file). A codec that an engine does not offer gives way to ``u8``, which is exact, and where
    that is not offered either to plain floats: said once."""

    def __init__(self, wanted: Mapping[str, str], logger: logging.Logger, where: str = "inference.encodings") -> None:
        """
        Raises:
            ValueError: an unknown codec.
        """
        for text in wanted.values():
            Codec.parse(text)
        self._wanted = wanted
        self._logger = logger
        self._where = where
        self._told: set[str] = set()

    def wanted(self, key: str) -> str:
        """The codec asked for, such as ``jpeg:90``."""
        return self._wanted.get(key, self._wanted.get(DEFAULT_ENCODING, _USUAL))

    def is_jpeg(self, key: str) -> bool:
        return Codec.parse(self.wanted(key)).name == "jpeg"

    def choose(self, batch: Batch, offered: tuple[str, ...]) -> dict[str, str]:
        """Codec by key for the pictures of ``batch``; the rest travels plain. ``offered`` is the engine card's."""
        keys = [key for key, value in batch.items() if isinstance(value, AffineImage)]
        return {key: codec for key in keys if (codec := self._one(key, offered)) != "f32"}

    def _one(self, key: str, offered: tuple[str, ...]) -> str:
        wanted = self.wanted(key)
        if Codec.parse(wanted).name in (*offered, "f32"):
            return wanted
        instead = _USUAL if _USUAL in offered else "f32"
        if key not in self._told:
            self._told.add(key)
            self._logger.warning(
                "%s: the engine does not take %s for %s (it takes %s): sent as %s, which is exact",
                *(self._where, wanted, key, ", ".join(offered) or "plain floats alone", instead),
            )
        return instead
