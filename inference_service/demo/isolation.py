"""Keeping a demonstration off every network: DDS on the loopback interface, a domain that nobody here uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from inference_service.core.errors import TransportError

PREFERRED = (100, 101, *range(42, 100), *range(1, 42))
"""From the top: the domains that people set by hand are small, and 0 is everyone's default."""


def domain_in_use(domain: int) -> bool:
    """Whether a DDS participant of ``domain`` runs on this machine.

    Every participant holds the domain's multicast discovery port, 7400 + 250 * domain (RTPS 2.3, section 9.6.1.1).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7400 + 250 * domain))
        except OSError:
            return True
    return False


def free_domain(candidates: Sequence[int] = PREFERRED) -> int:
    """The first of the ROS domains that no one on this machine uses.

    Raises:
        TransportError: all are taken.
    """
    for domain in candidates:
        if not domain_in_use(domain):
            return domain
    raise TransportError("every ROS_DOMAIN_ID is in use on this machine: give one with --domain")


@contextmanager
def isolated(domain: int) -> Iterator[None]:
    """This process and the children it starts meanwhile speak DDS on loopback and ``domain`` only.

    A ``CYCLONEDDS_URI`` of the caller's is set aside: it may name a robot's network.
    """
    with environment({"CYCLONEDDS_URI": None, "DDS_INTERFACE": "lo", "ROS_DOMAIN_ID": str(domain)}):
        yield


@contextmanager
def environment(ours: Mapping[str, str | None]) -> Iterator[None]:
    """``ours`` in this process and the children it starts meanwhile; None: not set."""
    before = {name: os.environ.get(name) for name in ours}
    _set_environment(ours)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
