"""Shared fixtures: DDS pinned to loopback, a domain of one's own per test."""

from __future__ import annotations

import itertools
import os
import random

import pytest

LOOPBACK_URI = (
    "<CycloneDDS><Domain id='any'><General><Interfaces><NetworkInterface name='lo' multicast='true'/></Interfaces>"
    "<MaxMessageSize>65500B</MaxMessageSize></General>"
    "<Internal><SocketReceiveBufferSize min='default' max='32MB'/></Internal>"
    "<Discovery><MaxAutoParticipantIndex>120</MaxAutoParticipantIndex></Discovery></Domain></CycloneDDS>"
)
os.environ["CYCLONEDDS_URI"] = LOOPBACK_URI

# ROS 2 keeps 0-101 free of ephemeral ports; a random start keeps parallel runs apart.
_domains = itertools.cycle(random.sample(range(1, 100), 99))


@pytest.fixture
def domain_id(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain that no other test of this run uses at the same time; also set as ROS_DOMAIN_ID."""
    chosen = next(_domains)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(chosen))
    return chosen
