"""An engine whose runtime breaks while it serves: told at once, refused at once, back when it works again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inference_service.core.batch import Batch
from inference_service.core.errors import EngineFault, InferenceFailed
from inference_service.nodes import engine_node
from inference_service.nodes.engine_node import EngineNode
from inference_service.wire.envelope import EngineState, encode_request
from tests.nodes.engine_rig import Asking, ToldPolicy, request, start_engine
from tests.nodes.harness import wait_until


class Breakable(ToldPolicy):
    """``repairs``: how many attempts to start it again fail before one succeeds."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.repairs = 0
        self.recoveries: list[float] = []

    def break_down(self, error: Exception) -> None:
        def act(batch: Batch) -> None:
            raise error

        self.act = act

    def recover(self) -> None:
        self.recoveries.append(time.monotonic())
        if len(self.recoveries) <= self.repairs:
            raise EngineFault("the device is still gone")
        self.act = lambda batch: None


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


@pytest.fixture
def start(domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EngineNode]]:
    opened: list[Any] = []

    def make(*policies: ToldPolicy) -> EngineNode:
        following = iter(policies)
        monkeypatch.setattr(engine_node, "load_policy", lambda *args, **options: next(following))
        opened.extend(start_engine())
        return opened[-1]

    yield make
    for thing in reversed(opened):
        thing.close()


def test_a_runtime_that_breaks_is_shown_and_started_again(asking: Asking, start: Callable[..., EngineNode]) -> None:
    """Fault: the device is gone at run time, and for the first attempt still. Expected: FAULT with the reason on the
    card, requests refused without waiting, READY by itself."""
    policy = Breakable()
    policy.repairs = 1
    start(policy)
    asking.wait_for(EngineState.READY)
    assert asking.ask(request(1)).status == "ok"
    policy.break_down(EngineFault("npu 0 fell off the bus"))
    assert asking.ask(request(2)).status == "engine_fault"
    card = asking.wait_for(EngineState.FAULT)
    assert card.message == "npu 0 fell off the bus"
    calls = len(policy.passes)
    refused = asking.ask(request(3))
    assert refused.status == "engine_unavailable" and "npu 0 fell off the bus" in refused.message
    assert len(policy.passes) == calls
    asking.wait_for(EngineState.READY)
    assert asking.ask(request(4)).status == "ok"
    assert len(policy.recoveries) == 2
    states = list(dict.fromkeys((card.state, card.message) for card in asking.cards))
    assert (EngineState.FAULT, "the device is still gone") in states


def test_who_waits_when_the_runtime_breaks_is_answered(asking: Asking, start: Callable[..., EngineNode]) -> None:
    policy = Breakable()
    policy.repairs = 10**6
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    policy.gate.clear()
    policy.inside.clear()
    asking.send(encode_request(request(1), extended=True))
    assert policy.inside.wait(10.0)
    for number in (2, 3, 4):
        asking.send(encode_request(request(number, session=f"s{number}"), extended=True))
    assert wait_until(lambda: len(engine._line) == 3)
    policy.break_down(EngineFault("gone"))
    policy.gate.set()
    assert wait_until(lambda: {"r1", "r2", "r3", "r4"} <= asking.replies.keys())
    assert asking.replies["r1"].status == "engine_fault"
    assert {asking.replies[f"r{n}"].status for n in (2, 3, 4)} == {"engine_unavailable"}


def test_a_policy_that_only_fails_is_loaded_anew(asking: Asking, start: Callable[..., EngineNode]) -> None:
    """Fault: a runtime without a word for it, whose every inference fails. Expected: another one is loaded."""
    first, second = ToldPolicy(), ToldPolicy()
    start(first, second)
    asking.wait_for(EngineState.READY)

    def fail(batch: Batch) -> None:
        raise InferenceFailed("CUBLAS_STATUS_EXECUTION_FAILED")

    first.act = fail
    for number in range(1, 6):
        assert asking.ask(request(number)).status == "inference_failed"
    card = asking.wait_for(EngineState.FAULT)
    assert "5 inferences failed in a row" in card.message and "CUBLAS" in card.message
    asking.wait_for(EngineState.READY)
    assert first.closed and asking.ask(request(6)).status == "ok" and second.passes


def test_one_device_whose_requests_fail_does_not_take_the_engine_away_from_another(
    asking: Asking, start: Callable[..., EngineNode]
) -> None:
    policy = ToldPolicy()

    def fail(batch: Batch) -> None:
        if batch["observation.state"][0, 0] == -1:
            raise InferenceFailed("a prompt too long")

    policy.act = fail
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    bad = request(1).batch
    bad["observation.state"] = bad["observation.state"] - 1
    for number in range(1, 13):
        assert asking.ask(request(number, batch=bad, session="bad", device_id="bad")).status == "inference_failed"
    assert asking.ask(request(13)).status == "ok"
    assert engine._host.faults == 0 and all(card.state is not EngineState.FAULT for card in asking.cards)


def test_the_card_goes_on_while_an_engine_starts_again(asking: Asking, start: Callable[..., EngineNode]) -> None:
    """A device must be able to tell an engine at work on itself from one that is lost."""

    class Slow(Breakable):
        def recover(self) -> None:
            time.sleep(1.5)
            super().recover()

    policy = Slow()
    start(policy)
    asking.wait_for(EngineState.READY)
    policy.break_down(EngineFault("gone"))
    assert asking.ask(request(1)).status == "engine_fault"
    asking.wait_for(EngineState.FAULT)
    before = len(asking.cards)
    started = time.monotonic()
    assert asking.ask(request(2)).status == "engine_unavailable"
    asking.wait_for(EngineState.READY)
    cards = len(asking.cards) - before
    assert cards >= 0.5 * (time.monotonic() - started) / engine_node.CARD_PERIOD_S
