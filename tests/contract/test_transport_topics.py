"""Topics of every transport: what is published arrives, byte for byte, as its QoS promises."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transport_rig import IMAGE, STRING, TRANSPORTS, Nodes, open_nodes, wait_for

from inference_service.core.errors import InferenceServiceError, TransportError
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import deserialize, new_message, serialize

GOLDEN = Path(__file__).parents[1] / "golden"
TOPIC_MESSAGES = {
    name: entry["type"]
    for name, entry in json.loads((GOLDEN / "manifest.json").read_text())["files"].items()
    if "/msg/" in entry["type"] and entry["type"] != "rmw_dds_common/msg/ParticipantEntitiesInfo"
}


@pytest.fixture(params=TRANSPORTS)
def nodes(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Nodes]:
    with open_nodes(request.param) as made:
        yield made


def _string(text: str) -> Any:
    return new_message(STRING, data=text)


def test_every_message_type_of_a_real_ros_2_arrives_byte_for_byte(nodes: Nodes) -> None:
    sender, receiver = nodes("sender"), nodes("receiver")
    got: dict[str, bytes] = {}
    publishers = {}
    for name, type_name in TOPIC_MESSAGES.items():

        def keep(message: Any, name: str = name, type_name: str = type_name) -> None:
            got[name] = bytes(serialize(message, type_name))

        receiver.create_subscription(f"/golden/{name}", type_name, keep)
        publishers[name] = sender.create_publisher(f"/golden/{name}", type_name)
    wait_for(lambda: all(one.matched for one in publishers.values()), "a match of every topic")
    golden = {name: (GOLDEN / f"{name}.cdr").read_bytes() for name in TOPIC_MESSAGES}
    for name, publisher in publishers.items():
        publisher.publish(deserialize(golden[name], TOPIC_MESSAGES[name]))
    wait_for(lambda: len(got) == len(golden), f"{golden.keys() - got.keys()}")
    assert got == golden


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_both_reliabilities_deliver(nodes: Nodes, reliability: Any) -> None:
    node, got = nodes("node"), []
    node.create_subscription("/text", STRING, lambda m: got.append(m.data), QoS(reliability=reliability))
    publisher = node.create_publisher("/text", STRING, QoS(reliability=reliability))
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(_string("hello"))
    wait_for(lambda: got == ["hello"], "the message")


def test_a_best_effort_publisher_does_not_match_a_reliable_subscription(nodes: Nodes) -> None:
    node = nodes("node")
    wants_reliable = node.create_subscription("/text", STRING, lambda _: None)
    wants_less = node.create_subscription("/text", STRING, lambda _: None, QoS(reliability="best_effort"))
    publisher = node.create_publisher("/text", STRING, QoS(reliability="best_effort"))
    wait_for(lambda: wants_less.matched, "the best-effort match")
    assert (publisher.matched, wants_reliable.matched) == (1, 0)


def test_a_late_joiner_gets_the_last_messages_of_a_transient_local_publisher(nodes: Nodes) -> None:
    latched = QoS(depth=2, durability="transient_local")
    publisher = nodes("early").create_publisher("/state", STRING, latched)
    for text in ("first", "second", "third"):
        publisher.publish(_string(text))
    got: list[str] = []
    nodes("late").create_subscription("/state", STRING, lambda m: got.append(m.data), latched)
    wait_for(lambda: len(got) == 2, "the latched messages")
    assert got == ["second", "third"]


def test_a_volatile_subscription_gets_nothing_from_before_it(nodes: Nodes) -> None:
    publisher = nodes("early").create_publisher("/state", STRING)
    publisher.publish(_string("before"))
    got: list[str] = []
    nodes("late").create_subscription("/state", STRING, lambda m: got.append(m.data))
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(_string("after"))
    wait_for(lambda: got, "a message")
    assert got == ["after"]


def test_a_large_message_arrives_whole(nodes: Nodes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, 7_373_304, np.uint8)
    got: list[Any] = []
    nodes("receiver").create_subscription("/big", IMAGE, got.append)
    publisher = nodes("sender").create_publisher("/big", IMAGE)
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish(new_message(IMAGE, encoding="rgb8", data=pixels))
    wait_for(lambda: got, "the large message")
    assert got[0].encoding == "rgb8"
    assert np.array_equal(got[0].data, pixels)


def test_a_kept_message_stays_intact_while_others_arrive(nodes: Nodes) -> None:
    node, got = nodes("node"), []
    node.create_subscription("/pictures", IMAGE, got.append)
    publisher = node.create_publisher("/pictures", IMAGE)
    wait_for(lambda: publisher.matched, "a match")
    for value in range(5):
        publisher.publish(new_message(IMAGE, data=np.full(100_000, value, np.uint8)))
        wait_for(lambda value=value: len(got) == value + 1, "a picture")
    node.close()
    assert [set(message.data.tolist()) for message in got] == [{value} for value in range(5)]


def test_every_subscription_gets_every_message_in_order(nodes: Nodes) -> None:
    receiver, got = nodes("receiver"), {name: [] for name in "abc"}
    for name in got:
        receiver.create_subscription("/numbers", STRING, lambda m, name=name: got[name].append(m.data), group=name)
    publisher = nodes("sender").create_publisher("/numbers", STRING, QoS(depth=100))
    wait_for(lambda: publisher.matched == 3, "three matches")
    sent = [str(number) for number in range(20)]
    for text in sent:
        publisher.publish(_string(text))
        wait_for(lambda text=text: all(texts[-1:] == [text] for texts in got.values()), text)
    assert got == dict.fromkeys("abc", sent)


def test_ready_cdr_is_sent_as_it_is(nodes: Nodes) -> None:
    node, got = nodes("node"), []
    node.create_subscription("/raw", STRING, lambda m: got.append(m.data))
    publisher = node.create_publisher("/raw", STRING)
    wait_for(lambda: publisher.matched, "a match")
    publisher.publish_serialized(serialize(_string("ready made"), STRING))
    wait_for(lambda: got == ["ready made"], "the message")


def test_a_message_of_the_wrong_kind_is_refused_and_names_the_field(nodes: Nodes) -> None:
    publisher = nodes("node").create_publisher("/numbers", "std_msgs/msg/Float64MultiArray")
    with pytest.raises(InferenceServiceError, match="data"):
        publisher.publish(new_message("std_msgs/msg/Float64MultiArray", data=np.zeros(3, np.float32)))


def test_a_closed_subscription_hears_nothing_and_a_closed_publisher_refuses(nodes: Nodes) -> None:
    node, got = nodes("node"), []
    kept = threading.Event()
    closed = node.create_subscription("/text", STRING, lambda m: got.append(m.data))
    node.create_subscription("/text", STRING, lambda _: kept.set())
    publisher = node.create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched == 2, "two matches")
    closed.close()
    closed.close()
    wait_for(lambda: publisher.matched == 1, "the subscription to leave")
    publisher.publish(_string("hello"))
    assert kept.wait(5)
    assert got == []
    publisher.close()
    with pytest.raises(TransportError, match="/text"):
        publisher.publish(_string("hello"))


@pytest.mark.parametrize("topic", ["/actions/my-policy", "/1st", "/a//b", "/a/", ""])
def test_names_that_ros_2_does_not_have_are_refused(nodes: Nodes, topic: str) -> None:
    with pytest.raises(TransportError, match="no ROS 2 name"):
        nodes("node").create_publisher(topic, STRING)


def test_a_relative_name_is_within_the_namespace(nodes: Nodes) -> None:
    node = nodes("node", namespace="/robot_1")
    assert node.create_publisher("text", STRING).topic == "/robot_1/text"


def test_bytes_that_do_not_decode_are_counted_reported_once_and_survived(
    nodes: Nodes, domain_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    node, got = nodes("node"), []
    subscription = node.create_subscription("/text", STRING, lambda m: got.append(m.data))
    publisher = node.create_publisher("/text", STRING)
    wait_for(lambda: publisher.matched, "a match")
    with caplog.at_level(logging.WARNING, "node"):
        for _ in range(3):
            publisher.publish_serialized(b"\0\1\0\0\4\0\0\0\xff\xfe\xfd\0")  # no UTF-8
        publisher.publish_serialized(bytes(serialize(_string("abc"), STRING)) + bytes(16))  # goes on too long
        publisher.publish(_string("good"))
        wait_for(lambda: got == ["good"], "the good message after the bad ones")
    assert subscription.malformed == 4
    assert node.errors == 0
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["/text"]


def test_use_sim_time_follows_the_clock_and_tells_when_it_jumps_back(nodes: Nodes) -> None:
    clock = nodes("clock").create_publisher("/clock", "rosgraph_msgs/msg/Clock")
    node, jumps = nodes("node", use_sim_time=True), []
    assert node.now_ns() == 0
    node.on_clock_jump(jumps.append)
    wait_for(lambda: clock.matched, "a match")

    def tick(seconds: int) -> None:
        stamp = new_message("builtin_interfaces/msg/Time", sec=seconds)
        clock.publish(new_message("rosgraph_msgs/msg/Clock", clock=stamp))
        wait_for(lambda: node.now_ns() == seconds * 10**9, f"second {seconds}")

    tick(100)
    tick(101)
    assert jumps == []
    tick(3)
    wait_for(lambda: jumps == [98 * 10**9], "the jump")
    tick(4)
    assert len(jumps) == 1
