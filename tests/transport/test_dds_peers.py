"""What DDS keeps silent about is said once, with the peer's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.transport import create_node
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.protocol import QoS
from tests.nodes.harness import wait_until

STRING = "std_msgs/msg/String"


@pytest.fixture
def nodes(domain_id: int) -> Iterator[Any]:
    made: list[Any] = []

    def make(name: str, **options: Any) -> Any:
        made.append(create_node(name, **options))
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.mark.parametrize("peer_first", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (QoS(), QoS(reliability="best_effort"), ("BEST_EFFORT", "RELIABLE")),
        (QoS(durability="transient_local"), QoS(), ("VOLATILE", "TRANSIENT_LOCAL")),
    ],
)
def test_a_publisher_of_another_qos_is_named_once(
    nodes: Any, caplog: pytest.LogCaptureFixture, ours: QoS, theirs: QoS, words: tuple[str, str], peer_first: bool
):
    node, peer = nodes("listener"), nodes("camera")
    with caplog.at_level(logging.WARNING, "listener"):
        steps = [
            lambda: node.create_subscription("/text", STRING, print, ours),
            lambda: (peer.create_publisher("/text", STRING, theirs), peer.create_publisher("/text", STRING, theirs)),
        ]
        for step in reversed(steps) if peer_first else steps:
            step()
        assert wait_until(lambda: node.conflicts)
    assert not wait_until(lambda: len(node.conflicts) > 1, 0.3)
    (text,) = node.conflicts
    assert text.startswith("/text: a publisher of /camera offers ")
    assert all(word in text for word in words)
    assert [record.getMessage() for record in caplog.records if record.name == "listener"] == [text]
    # the other side says so too
    assert wait_until(lambda: peer.conflicts)
    assert "a subscription of /listener asks for" in peer.conflicts[0]


def test_another_type_on_our_topic_is_named_and_the_right_one_is_heard(nodes: Any):
    node, wrong, right = nodes("listener"), nodes("wrong"), nodes("right")
    got: list[str] = []
    node.create_subscription("/text", STRING, lambda m: got.append(m.data))
    wrong.create_publisher("/text", "std_msgs/msg/Bool")
    assert wait_until(lambda: node.conflicts)
    assert "/text: a publisher of /wrong is of type std_msgs::msg::dds_::Bool_" in node.conflicts[0]
    publisher = right.create_publisher("/text", STRING)
    assert wait_until(lambda: publisher.matched)
    publisher.publish_serialized(b"\0\1\0\0\3\0\0\0hi\0\0")
    assert wait_until(lambda: got == ["hi"])


@pytest.mark.parametrize("options", [{}, {"gid_size": 16}, {"gid_size": 24}])
def test_a_node_name_that_is_taken_is_told_by_both(nodes: Any, options: dict[str, Any]):
    first, other, second = (nodes(name, **options) for name in ("twin", "other", "twin"))
    assert wait_until(lambda: first.conflicts and second.conflicts)
    assert "another node is named /twin" in first.conflicts[0]
    assert not wait_until(lambda: len(first.conflicts) > 1 or other.conflicts, 0.3)


def test_a_ros_node_of_our_name_is_noticed(nodes: Any, monkeypatch: pytest.MonkeyPatch):
    """One without an entity name, known by ``ros_discovery_info`` alone."""
    from inference_service.transport.dds import node as module

    ours = nodes("twin", gid_size=16)
    participant = module.Participant
    monkeypatch.setattr(module, "Participant", lambda config, _name: participant(config))
    nodes("twin", gid_size=16)
    assert wait_until(lambda: ours.conflicts)
    assert "another node is named /twin" in ours.conflicts[0]


def test_matching_peers_are_no_news(nodes: Any):
    node, peer = nodes("a"), nodes("b", namespace="/ns")
    latched = QoS(durability="transient_local")
    node.create_subscription("/text", STRING, print, QoS(reliability="best_effort"))
    publisher = peer.create_publisher("/text", STRING, latched)
    node.create_service("/serve", "std_srvs/srv/Empty", lambda r: r)
    client = peer.create_client("/serve", "std_srvs/srv/Empty")
    assert wait_until(lambda: publisher.matched and client.is_ready)
    assert not wait_until(lambda: node.conflicts or peer.conflicts, 0.3)


def test_diagnostics_count_conflicts_and_garbage(nodes: Any):
    node: DdsNode = nodes("listener")
    peer, watcher = nodes("camera"), nodes("watcher")
    statuses: list[Any] = []
    watcher.create_subscription(
        "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", lambda m: statuses.extend(m.status)
    )
    node.create_subscription("/text", STRING, print, QoS(depth=5))
    publisher = peer.create_publisher("/text", STRING)
    assert wait_until(lambda: publisher.matched)
    publisher.publish_serialized(b"\0\1\0\0\4\0\0\0\xff\xfe\xfd\0")
    peer.create_publisher("/text", STRING, QoS(reliability="best_effort"))
    diagnostics = DiagnosticsPublisher(node, lambda: [Status(Level.OK, "listener", "fine", {"own": "1"})], 0.1)

    def told() -> dict[str, str]:
        return {one.key: one.value for one in statuses[-1].values} if statuses else {}

    assert wait_until(lambda: told().get("malformed_messages") == "1" and told()["peer_conflicts"] == "1")
    assert told()["own"] == "1" and "/camera" in told()["last_peer_conflict"]
    diagnostics.close()
