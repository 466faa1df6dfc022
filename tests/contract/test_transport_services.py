"""Services of every transport, and what is asked of ROS's own tools: a name, one answer for each request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from transport_rig import PATIENCE_S, TRANSPORTS, Nodes, open_nodes, wait_for

from inference_service.wire.interfaces import new_message

LENGTHS = "rcl_interfaces/srv/GetParameterTypes"  # texts there, small numbers back


@pytest.fixture(params=TRANSPORTS)
def nodes(request: pytest.FixtureRequest, domain_id: int) -> Iterator[Nodes]:
    with open_nodes(request.param) as made:
        yield made


def _client(nodes: Nodes, name: str = "client", service: str = "/lengths") -> Any:
    client = nodes(name).create_client(service, LENGTHS)
    wait_for(lambda: client.is_ready, "the service")
    return client


def _ask(client: Any, *texts: str) -> list[int]:
    answers: list[Any] = []
    done = threading.Event()
    client.call(new_message(f"{LENGTHS}_Request", names=list(texts)), lambda one: (answers.append(one), done.set()))
    assert done.wait(PATIENCE_S), "no answer"
    return answers[0].types.tolist()


def _lengths(request: Any) -> Any:
    return new_message(f"{LENGTHS}_Response", types=np.array([len(name) for name in request.names], np.uint8))


def test_each_request_gets_its_own_answer(nodes: Nodes) -> None:
    nodes("server").create_service("/lengths", LENGTHS, _lengths)
    client = _client(nodes)
    assert [_ask(client, *texts) for texts in (("a", "bcd"), (), ("ef",))] == [[1, 3], [], [2]]


def test_two_clients_get_their_own_answers(nodes: Nodes) -> None:
    nodes("server").create_service("/lengths", LENGTHS, _lengths)
    first, second = _client(nodes, "first"), _client(nodes, "second")
    assert (_ask(first, "a"), _ask(second, "bc")) == ([1], [2])


def test_a_relative_service_is_within_the_namespace(nodes: Nodes) -> None:
    nodes("server", namespace="/robot_1").create_service("server/lengths", LENGTHS, _lengths)
    assert _ask(_client(nodes, service="/robot_1/server/lengths"), "abc") == [3]


def test_a_callback_that_fails_is_counted_and_the_next_request_served(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile(request: Any) -> Any:
        if not request.names:
            raise RuntimeError("blown fuse")
        return _lengths(request)

    node = nodes("server")
    node.create_service("/lengths", LENGTHS, fragile)
    client = _client(nodes)
    with caplog.at_level(logging.ERROR):
        client.call(new_message(f"{LENGTHS}_Request"), lambda _: None)
        wait_for(lambda: node.errors, "the failure")
        assert _ask(client, "a") == [1]
    assert "blown fuse" in caplog.text


def test_a_service_that_was_closed_is_missed(nodes: Nodes) -> None:
    service = nodes("server").create_service("/lengths", LENGTHS, _lengths)
    client = _client(nodes)
    service.close()
    service.close()
    wait_for(lambda: not client.is_ready, "the service to be missed")
