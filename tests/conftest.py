"""Shared fixtures: DDS pinned to loopback, a domain of one's own per test; one journal of vendors' rules for all."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from inference_service.demo.isolation import domain_in_use

pytest_plugins = ["tests.suite_journal"]

LOOPBACK_URI = (
    "<CycloneDDS><Domain id='any'><General><Interfaces><NetworkInterface name='lo' multicast='true'/></Interfaces>"
    "<MaxMessageSize>65500B</MaxMessageSize></General>"
    "<Internal><SocketReceiveBufferSize min='default' max='32MB'/></Internal>"
    "<Discovery><MaxAutoParticipantIndex>120</MaxAutoParticipantIndex></Discovery></Domain></CycloneDDS>"
)
os.environ["CYCLONEDDS_URI"] = LOOPBACK_URI

# ROS 2 keeps 0-101 free of ephemeral ports; random, so that parallel runs rarely look at the same one.
_domains = itertools.cycle(random.sample(range(1, 100), 99))


@pytest.fixture
def domain_id(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain that nobody on this machine uses; also set as ROS_DOMAIN_ID."""
    chosen = next(domain for domain in itertools.islice(_domains, 99) if not domain_in_use(domain))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(chosen))
    return chosen
