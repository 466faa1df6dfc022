"""Parameters over the wire, as ``ros2 param`` asks for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from inference_service.nodes.parameter_services import (
    EVENTS_QOS,
    EVENTS_TOPIC,
    Changeable,
    ParameterServices,
    from_value,
    to_value,
)
from inference_service.nodes.runtime import NodeParameters
from inference_service.transport import create_node
from inference_service.wire.interfaces import new_message
from tests.nodes.harness import wait_until


class Parameters(NodeParameters):
    node_name: str = "tuned"
    path: str
    gain: float | None = Field(default=None, gt=0)
    count: int = 3


class Peer:
    """The node with the parameters, and one who asks."""

    def __init__(self) -> None:
        self.node, self._asking = create_node("tuned"), create_node("asking")
        self.values: dict[str, Any] = {"gain": 2.0, "count": 3}
        self.events: list[Any] = []
        self._asking.create_subscription(EVENTS_TOPIC, "rcl_interfaces/msg/ParameterEvent", self.events.append)
        changeable = {name: self._changeable(name) for name in self.values}
        self.services = ParameterServices(self.node, Parameters(path="/x"), changeable)

    def _changeable(self, name: str) -> Changeable:
        def change(value: Any) -> None:
            if value == 13:
                raise ValueError("13 brings bad luck")
            self.values[name] = value

        return Changeable(lambda: self.values[name], change)

    def ask(self, service: str, kind: str, **fields: Any) -> Any:
        client = self._asking.create_client(f"/tuned/{service}", f"rcl_interfaces/srv/{kind}")  # type: ignore[attr-defined]
        assert wait_until(lambda: client.is_ready), service
        answers: list[Any] = []
        done = threading.Event()
        client.call(
            new_message(f"rcl_interfaces/srv/{kind}_Request", **fields), lambda a: (answers.append(a), done.set())
        )
        assert done.wait(10), f"{service} did not answer"
        client.close()
        return answers[0]

    def set(self, **values: Any) -> list[Any]:
        return self.ask("set_parameters", "SetParameters", parameters=_parameters(values)).results

    def close(self) -> None:
        self.node.close()
        self._asking.close()


def _parameters(values: dict[str, Any]) -> list[Any]:
    return [new_message("rcl_interfaces/msg/Parameter", name=n, value=to_value(v)) for n, v in values.items()]


@pytest.fixture
def peer(domain_id: int) -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def test_parameters_are_listed_read_and_described(peer: Peer):
    names = list(Parameters.model_fields)
    assert peer.ask("list_parameters", "ListParameters").result.names == names
    assert peer.ask("list_parameters", "ListParameters", prefixes=["gain"]).result.names == ["gain"]
    asked = ["path", "gain", "count", "use_sim_time", "nonsense"]
    values = peer.ask("get_parameters", "GetParameters", names=asked).values
    assert [from_value(value) for value in values] == ["/x", 2.0, 3, False, None]
    types = peer.ask("get_parameter_types", "GetParameterTypes", names=asked).types
    assert types.tolist() == [4, 3, 2, 1, 0]
    told = peer.ask("describe_parameters", "DescribeParameters", names=["path", "gain"]).descriptors
    assert [(one.name, one.type, one.read_only) for one in told] == [("path", 4, True), ("gain", 3, False)]


def test_what_may_change_is_set_and_told(peer: Peer):
    assert [result.successful for result in peer.set(gain=3, count=7)] == [True, True]
    assert peer.values == {"gain": 3.0, "count": 7}
    assert wait_until(lambda: len([event for event in peer.events if event.changed_parameters]) == 2)
    changed = [event.changed_parameters[0] for event in peer.events if event.changed_parameters]
    assert [(one.name, from_value(one.value)) for one in changed] == [("gain", 3.0), ("count", 7)]
    assert peer.events[-1].node == "/tuned"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("path", "/y", "path cannot be changed while the node runs: restart it"),
        ("nonsense", 1, "no parameter 'nonsense' here"),
        ("gain", -1.0, "gain: Input should be greater than 0"),
        ("gain", "high", "gain: Input should be a valid number"),
        ("count", 1.5, "count: Input should be a valid integer"),
        ("count", None, "count cannot be unset"),
        ("count", 13, "13 brings bad luck"),
    ],
)
def test_the_rest_is_refused_with_a_reason(peer: Peer, name: str, value: Any, reason: str):
    before = dict(peer.values)
    (result,) = peer.set(**{name: value})
    assert not result.successful
    assert reason in result.reason
    assert peer.values == before


def test_an_array_is_refused(peer: Peer):
    value = new_message("rcl_interfaces/msg/ParameterValue", type=7, integer_array_value=np.array([1, 2]))
    one = new_message("rcl_interfaces/msg/Parameter", name="count", value=value)
    (result,) = peer.ask("set_parameters", "SetParameters", parameters=[one]).results
    assert "no parameter here is an array" in result.reason


def test_atomically_means_all_or_none(peer: Peer):
    given = _parameters({"gain": 5.0, "count": 13})
    result = peer.ask("set_parameters_atomically", "SetParametersAtomically", parameters=given).result
    assert (result.successful, result.reason) == (False, "13 brings bad luck")
    assert peer.values == {"gain": 2.0, "count": 3}


def test_a_node_that_starts_tells_its_parameters(domain_id: int):
    listener, node = create_node("listener"), create_node("tuned")
    events: list[Any] = []
    subscription = listener.create_subscription(
        EVENTS_TOPIC, "rcl_interfaces/msg/ParameterEvent", events.append, EVENTS_QOS
    )
    try:
        early = node.create_publisher(EVENTS_TOPIC, "rcl_interfaces/msg/ParameterEvent", EVENTS_QOS)
        assert wait_until(lambda: early.matched and subscription.matched)
        ParameterServices(node, Parameters(path="/x"), {})
        # A volatile publisher may be matched too late for its first message; asking again tells the same.
        wait_until(lambda: events, 2.0)
        assert all(len(event.new_parameters) == len(Parameters.model_fields) for event in events)
    finally:
        node.close()
        listener.close()
