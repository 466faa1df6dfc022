"""Services: every client gets the answer to its own question."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from inference_service.core.errors import MalformedMessage
from inference_service.transport.dds import services
from inference_service.transport.dds.node import DdsNode
from inference_service.transport.dds.services import ServiceClient, decode, encode
from inference_service.wire.interfaces import new_message

TRIGGER = "std_srvs/srv/Trigger"
CANCEL = "action_msgs/srv/CancelGoal"


@pytest.fixture
def nodes(domain_id: int) -> Iterator[list[DdsNode]]:
    made = [DdsNode("server"), DdsNode("first"), DdsNode("second")]
    yield made
    for node in made:
        node.close()


def _ready(client: ServiceClient) -> None:
    deadline = time.monotonic() + 10
    while not client.is_ready:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _ask(client: ServiceClient, request: Any) -> Any:
    answers: list[Any] = []
    done = threading.Event()
    client.call(request, lambda answer: (answers.append(answer), done.set()))
    assert done.wait(10)
    return answers[0]


def test_a_service_without_fields_answers(nodes: list[DdsNode]) -> None:
    called: list[Any] = []

    def reset(request: Any) -> Any:
        called.append(request)
        return new_message("std_srvs/srv/Empty_Response")

    nodes[0].create_service("/action_dispatcher/reset", "std_srvs/srv/Empty", reset)
    client = nodes[1].create_client("/action_dispatcher/reset", "std_srvs/srv/Empty")
    _ready(client)
    _ask(client, new_message("std_srvs/srv/Empty_Request"))
    assert len(called) == 1


def test_each_client_gets_its_own_answers(nodes: list[DdsNode]) -> None:
    def echo(request: Any) -> Any:
        stamp = request.goal_info.stamp
        return new_message(f"{CANCEL}_Response", return_code=stamp.sec)

    nodes[0].create_service("/echo", CANCEL, echo)
    clients = [node.create_client("/echo", CANCEL) for node in nodes[1:]]
    for client in clients:
        _ready(client)
    got: dict[int, list[int]] = {0: [], 1: []}
    for number in range(20):
        info = new_message("action_msgs/msg/GoalInfo", stamp=new_message("builtin_interfaces/msg/Time", sec=number))
        request = new_message(f"{CANCEL}_Request", goal_info=info)
        got[number % 2].append(_ask(clients[number % 2], request).return_code)
    assert got == {0: list(range(0, 20, 2)), 1: list(range(1, 20, 2))}


def test_an_answer_right_after_discovery_is_not_lost(nodes: list[DdsNode]) -> None:
    nodes[0].create_service("/ready", TRIGGER, lambda _: new_message(f"{TRIGGER}_Response", success=True))
    for number in range(10):
        client = nodes[1 + number % 2].create_client("/ready", TRIGGER)
        _ready(client)
        assert _ask(client, new_message(f"{TRIGGER}_Request")).success
        client.close()


def test_an_answer_waits_until_the_reader_of_its_client_is_matched(
    nodes: list[DdsNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([False, False, False])
    monkeypatch.setattr(services.ServiceServer, "_has_reader_of", lambda *_: next(verdicts, True))
    nodes[0].create_service("/ready", TRIGGER, lambda _: new_message(f"{TRIGGER}_Response", success=True))
    client = nodes[1].create_client("/ready", TRIGGER)
    _ready(client)
    assert _ask(client, new_message(f"{TRIGGER}_Request")).success
    assert next(verdicts, None) is None, "answered before the reader was there"


def test_a_failing_service_is_counted_and_goes_on(nodes: list[DdsNode], caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def fragile(_: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no coffee")
        return new_message(f"{TRIGGER}_Response", success=True)

    nodes[0].create_service("/fragile", TRIGGER, fragile)
    client = nodes[1].create_client("/fragile", TRIGGER)
    _ready(client)
    with caplog.at_level(logging.ERROR, "server"):
        client.call(new_message(f"{TRIGGER}_Request"), lambda _: None)
        assert _ask(client, new_message(f"{TRIGGER}_Request")).success
    assert nodes[0].errors == 1
    assert "no coffee" in caplog.text


def test_the_header_stands_where_rmw_cyclonedds_puts_it() -> None:
    request = new_message(f"{CANCEL}_Request")
    payload = encode(0x0102030405060708, -2, request, f"{CANCEL}_Request")
    assert payload[:20] == bytes.fromhex("000100000807060504030201feffffffffffffff")
    client, sequence, message = decode(payload, f"{CANCEL}_Request")
    assert (client, sequence, message.goal_info.stamp.sec) == (0x0102030405060708, -2, 0)


def test_a_payload_without_room_for_the_header_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="too short"):
        decode(b"\0\1\0\0" + bytes(8), f"{CANCEL}_Request")


def test_unanswered_requests_are_remembered_up_to_a_bound(nodes: list[DdsNode]) -> None:
    client = nodes[1].create_client("/nobody", TRIGGER)
    for _ in range(3 * services._MAX_REMEMBERED):
        client.call(new_message(f"{TRIGGER}_Request"), lambda _: None)
    assert len(client._pending) == services._MAX_REMEMBERED
