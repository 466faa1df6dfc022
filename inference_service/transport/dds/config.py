"""Where DDS talks and how: environment variables to Cyclone DDS's own XML, in this one place.

==========================  =========  =======================================================================
variable                    default    meaning
==========================  =========  =======================================================================
``CYCLONEDDS_URI``          unset      the user's own configuration; where set, only domain and GID size are read below
``ROS_DOMAIN_ID``           ``0``      domain, 0 to 232
``DDS_INTERFACE``           ``lo``     network interfaces (names or addresses, comma separated), or ``auto``
``DDS_PEERS``               none       hosts to look for where multicast does not reach (comma, semicolon or space)
``DDS_MULTICAST``           ``auto``   ``auto``, ``true`` or ``false`` (then name every host in ``DDS_PEERS``)
``DDS_MAX_MESSAGE_SIZE``    ``65500B`` UDP payload; ``1400B`` on Wi-Fi
``DDS_RECEIVE_BUFFER``      ``32MB``   socket buffer asked for; the kernel grants up to ``net.core.rmem_max``
``DDS_GID_SIZE``            ``auto``   node graph of humble (24) or of iron and later (16), see ``graph.py``
==========================  =========  =======================================================================

The values that are set come from measurements: with Cyclone's plain settings every hundredth 1.84 MB message
took a fifth of a second. ``SocketReceiveBufferSize`` has no ``min``: more than the kernel allows would stop
the process from joining at all. ``MaxAutoParticipantIndex`` bounds the processes per host and domain (rmw
says 32, and with host networking all containers share it). ``WriterLingerDuration`` is how long each writer
with data that a dead peer never acknowledged delays the end of its process. ``MaxSampleSize`` bounds what a
message from outside can make us allocate. ``HeartbeatInterval`` and ``NackDelay`` say how soon what was lost is asked
for: with Cyclone's own, one lost packet costs 100 to 200 ms, which is two to four control ticks (docs/benchmarks.md).
``NackDelay`` is meant to be above the round trip, so that what is on its way is not asked for again; on a machine
too busy to empty its socket in that time it is.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from inference_service.core.errors import TransportError

GidSize = Literal["auto", 16, 24]

_logger = logging.getLogger("dds")
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_RMEM_WANTED = 32 * 1024 * 1024
_RMEM_ENOUGH = 8 * 1024 * 1024  # holds the largest request that is usual, two float32 cameras of 480x640
_MAX_DOMAIN = 232
# Cyclone's own: a heartbeat after 100 ms, at most one in 20; 100 ms between two requests to send the same data again.
_LOSS = '<HeartbeatInterval minsched="5ms">10ms</HeartbeatInterval><NackDelay>10ms</NackDelay>'
_SIZE = re.compile(r"\d+ ?(B|kB|MB|GB|KiB|MiB|GiB)")


@dataclass(frozen=True)
class DdsConfig:
    """What the variables above say, checked. ``uri`` is Cyclone's XML, or the user's own ``CYCLONEDDS_URI``."""

    domain_id: int
    gid_size: GidSize
    uri: str


def load_config(environment: Mapping[str, str] | None = None) -> DdsConfig:
    """Read and check the environment.

    Raises:
        TransportError: a variable is wrong, or names an interface that this machine does not have.
    """
    env = os.environ if environment is None else environment
    return DdsConfig(_domain_id(env), _gid_size(env), env.get("CYCLONEDDS_URI") or _xml(env))


def apply_config(config: DdsConfig) -> None:
    """Hand the configuration to the DDS library, which reads it when the first node of the process starts."""
    os.environ["CYCLONEDDS_URI"] = config.uri
    _warn_about_buffers()


def check_domain_id(value: str | int) -> int:
    """A DDS domain id.

    Raises:
        TransportError: not a whole number from 0 to 232.
    """
    text = str(value).strip()
    if text.isascii() and text.isdigit() and int(text) <= _MAX_DOMAIN:
        return int(text)
    raise TransportError(
        f"ROS_DOMAIN_ID={text!r}: wants a whole number from 0 to {_MAX_DOMAIN} (0 to 101 is safe everywhere), "
        "the same on every machine of the robot"
    )


def _domain_id(env: Mapping[str, str]) -> int:
    return check_domain_id(env.get("ROS_DOMAIN_ID") or 0)


def _gid_size(env: Mapping[str, str]) -> GidSize:
    text = env.get("DDS_GID_SIZE") or "auto"
    known: dict[str, GidSize] = {"auto": "auto", "16": 16, "24": 24}
    if text not in known:
        raise TransportError(f"DDS_GID_SIZE={text!r}: wants auto, 16 (ROS 2 iron and later) or 24 (humble)")
    return known[text]


def _xml(env: Mapping[str, str]) -> str:
    interfaces = [name.strip() for name in (env.get("DDS_INTERFACE") or "lo").split(",") if name.strip()]
    multicast = _multicast(env)
    peers = [peer for peer in re.split(r"[,;\s]+", env.get("DDS_PEERS") or "") if peer]
    if multicast == "false" and not peers:
        raise TransportError("DDS_MULTICAST=false but DDS_PEERS is empty: name the other hosts, e.g. 192.168.1.20")
    return "".join(
        (
            '<CycloneDDS xmlns="https://cdds.io/config"><Domain id="any"><General><Interfaces>',
            *(_interface_element(name) for name in interfaces),
            "</Interfaces>",
            "<AllowMulticast>false</AllowMulticast>" if multicast == "false" else "",
            f"<MaxMessageSize>{_size(env, 'DDS_MAX_MESSAGE_SIZE', '65500B')}</MaxMessageSize></General>",
            '<Internal><SocketReceiveBufferSize min="default" max=',
            f'"{_size(env, "DDS_RECEIVE_BUFFER", "32MB")}"/>',
            "<WriterLingerDuration>100ms</WriterLingerDuration><MaxSampleSize>256MB</MaxSampleSize>",
            f"{_LOSS}</Internal>",
            "<Discovery><ParticipantIndex>auto</ParticipantIndex>",
            "<MaxAutoParticipantIndex>120</MaxAutoParticipantIndex>",
            _peers_element(peers),
            "</Discovery></Domain></CycloneDDS>",
        )
    )


def _interface_element(name: str) -> str:
    if name == "auto":
        return '<NetworkInterface autodetermine="true"/>'
    if _is_address(name):
        return f"<NetworkInterface address={_quoted(name)}/>"
    present = [interface for _, interface in socket.if_nameindex()]
    if name not in present:
        raise TransportError(
            f"DDS_INTERFACE={name!r}: this machine has no such network interface, it has {', '.join(present)}; "
            "name one of them, an address of this machine, or auto"
        )
    # Linux does not call loopback capable of multicast; told so, it is.
    multicast = ' multicast="true"' if name == "lo" else ""
    return f"<NetworkInterface name={_quoted(name)}{multicast}/>"


def _quoted(text: str) -> str:
    """As the value of an attribute. Python's own xml.sax would load its HTTP client for it."""
    return '"{}"'.format(text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _multicast(env: Mapping[str, str]) -> str:
    text = (env.get("DDS_MULTICAST") or "auto").lower()
    if text not in ("auto", "true", "false"):
        raise TransportError(f"DDS_MULTICAST={text!r}: wants auto, true or false")
    return text


def _peers_element(peers: list[str]) -> str:
    if not peers:
        return ""
    return "<Peers>" + "".join(f"<Peer address={_quoted(peer)}/>" for peer in peers) + "</Peers>"


def _size(env: Mapping[str, str], key: str, default: str) -> str:
    text = env.get(key) or default
    if not _SIZE.fullmatch(text):
        raise TransportError(f"{key}={text!r}: wants a number with its unit, e.g. {default}")
    return text


@lru_cache(maxsize=1)
def _warn_about_buffers() -> None:
    """Once per process: large messages are dropped and sent again where the kernel's socket buffers are small."""
    try:
        granted = int(_RMEM_MAX.read_text())
    except (OSError, ValueError):  # not Linux, or hidden in a container's network namespace
        return
    if granted < _RMEM_ENOUGH:
        _logger.warning(
            "net.core.rmem_max is %d bytes: messages of several MB will be slow. On the host run: "
            "sudo sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d",
            granted,
            _RMEM_WANTED,
            _RMEM_WANTED,
        )
