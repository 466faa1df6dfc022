"""The name under which a device is known to engines: the same after a restart, another for each device.

``<node>@<8 hex digits>``, the SHA-256 of the machine (``/etc/machine-id``, the host's name, the hardware address of its
first network card; a container on the host's network has the last two of its host) and the node's namespace and name.
Where another device on this machine has that name, ``.2``, ``.3``… follow. While a device lives it holds its name by a
socket in Linux's abstract namespace, which goes with the process however it ends; containers on the host's network
share it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import socket
from pathlib import Path

_PREFIX = "inference-service-device:"
_MOST = 64
_PATTERN = re.compile(r"[!-~]{1,96}")


class DeviceIdentity:
    """``wanted``: the name, where the configuration gives one; else it is derived. Close it to let the name go."""

    def __init__(self, node: str, wanted: str, logger: logging.Logger, root: Path = Path("/")) -> None:
        """
        Raises:
            ValueError: ``wanted`` is longer than 96 characters, or holds others than printable ASCII without spaces.
        """
        if wanted and not _PATTERN.fullmatch(wanted):
            raise ValueError(f"device_id {wanted!r}: 1 to 96 printable ASCII characters, no spaces")
        digest = hashlib.sha256((_machine(root) + node).encode()).hexdigest()
        name = wanted or f"{node.strip('/')[-80:]}@{digest[:8]}"
        self._socket: socket.socket | None = None
        self.device_id = self._claim(name)
        if wanted and self.device_id != wanted:
            logger.warning("device_id %s is in use on this machine: this device is %s", wanted, self.device_id)

    def _claim(self, name: str) -> str:
        for number in range(1, _MOST + 1):
            candidate = name if number == 1 else f"{name}.{number}"
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                holder.bind(f"\0{_PREFIX}{candidate}")
            except OSError:  # somebody has it
                holder.close()
                continue
            self._socket = holder
            return candidate
        raise ValueError(f"{_MOST} devices on this machine are called {name}: give each a device_id of its own")

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _machine(root: Path) -> str:
    return "\n".join((_read(root / "etc/machine-id"), socket.gethostname(), _hardware_address(root), ""))


def _hardware_address(root: Path) -> str:
    """Of the network card whose name comes first; empty where there is none but virtual ones."""
    cards = sorted(path for path in root.glob("sys/class/net/*") if (path / "device").exists())
    return _read(cards[0] / "address") if cards else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # there is none, or it is not for us
        return ""
