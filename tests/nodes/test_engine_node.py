"""The engine node on the real wire: every request is answered, with an action or the name of an error."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service import readiness
from inference_service.core.engine import PureInferenceEngine, synthetic_batch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes import engine_node
from inference_service.nodes.engine_node import EngineNode, main
from inference_service.wire.envelope import EngineState, encode_request
from inference_service.wire.variants import to_variants
from tests.nodes.engine_rig import Asking, request, start_engine
from tests.nodes.harness import POLICY, wait_until


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


@pytest.fixture
def start(domain_id: int) -> Iterator[Any]:
    opened: list[Any] = []

    def make(policy: Path = POLICY) -> EngineNode:
        opened.extend(start_engine(policy))
        return opened[-1]

    yield make
    for thing in reversed(opened):
        thing.close()


def held_up(engine: EngineNode) -> tuple[threading.Event, threading.Event]:
    """Its next pass sets the first event and waits for the second."""
    started, go_on = threading.Event(), threading.Event()
    engine_core = engine._host._engine
    assert engine_core is not None
    infer_many = engine_core.infer_many

    def slow(requests: Any) -> Any:
        if requests:
            started.set()
            assert go_on.wait(10.0)
        return infer_many(requests)

    engine_core.infer_many = slow  # type: ignore[method-assign]
    return started, go_on


def held_until(asking: Asking, state: EngineState, held: Any) -> Any:
    """``held``, that only goes on once the engine's card has shown ``state``; until then no health check passes."""

    def wait_first(*args: Any, **options: Any) -> Any:
        asking.wait_for(state)
        assert wait_until(lambda: readiness.check(["pure_inference"]) == [f"pure_inference: {state.name}"])
        return held(*args, **options)

    return wait_first


def test_it_warms_up_before_it_is_ready(
    asking: Asking, start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(readiness.STATUS_DIR, str(tmp_path))
    load, warm_up = engine_node.load_policy, PureInferenceEngine.warm_up
    monkeypatch.setattr(engine_node, "load_policy", held_until(asking, EngineState.LOADING, load))
    monkeypatch.setattr(PureInferenceEngine, "warm_up", held_until(asking, EngineState.WARMING_UP, warm_up))
    start()
    asking.wait_for(EngineState.READY)
    assert wait_until(lambda: readiness.check(["pure_inference"]) == [])
    states = list(dict.fromkeys(card.state for card in asking.cards))
    assert states == [EngineState.LOADING, EngineState.WARMING_UP, EngineState.READY]
    card = asking.cards[-1]
    assert (card.policy_type, card.backend_type, card.device) == ("act", "onnx", "cpu")
    assert (card.chunk_size, card.action_dim) == (50, 6)
    config = PolicyFolder.load(POLICY).config
    assert card.fingerprint == PolicyFolder.load(POLICY).fingerprint
    assert list(card.input_features) == list(config.input_features)
    assert card.output_features == {"action": (6,)} and card.feature_types["observation.state"] == "STATE"
    assert "onnxruntime" in card.versions


def test_both_forms_are_answered_in_kind(asking: Asking, start: Any) -> None:
    start()
    asking.wait_for(EngineState.READY)
    extended = asking.ask(request(1, fingerprint=asking.cards[-1].fingerprint))
    assert extended.status == "ok" and extended.session == "s1" and extended.device_id == "arm"
    assert set(extended.timing_ms) == {"queue", "decode", "inference", "encode"}
    plain = asking.ask(request(2), extended=False)
    assert not plain.extended and plain.timing_ms == {}
    assert plain.action is not None and extended.action is not None
    np.testing.assert_array_equal(plain.action, extended.action)


def bad_state(value: float) -> dict[str, Any]:
    batch = synthetic_batch(PolicyFolder.load(POLICY).config.input_features)
    batch["observation.state"] = np.full((1, 6), value, np.float32)
    return batch


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"fingerprint": "feedbeef"}, "policy_mismatch", "feedbeef"),
        ({"batch": bad_state(float("nan"))}, "invalid_observation", "observation.state"),
        ({"batch": {"observation.state": np.zeros((1, 6), np.float32)}}, "missing_observation", "images.top"),
        (
            {"batch": {**bad_state(0.0), "observation.extra": np.zeros((1, 2), np.float32)}},
            "invalid_observation",
            "extra",
        ),
        ({"deadline_ms": 0.0}, "expired", "waited"),
    ],
)
def test_what_cannot_be_served_is_answered_by_name(
    asking: Asking, start: Any, changes: dict[str, Any], status: str, says: str
) -> None:
    start()
    asking.wait_for(EngineState.READY)
    reply = asking.ask(request(1, **changes))
    assert (reply.status, reply.action) == (status, None)
    assert says in reply.message
    assert asking.ask(request(2)).status == "ok"


def test_a_malformed_request_is_answered_and_the_next_one_served(asking: Asking, start: Any) -> None:
    engine = start()
    asking.wait_for(EngineState.READY)
    envelope = {"task.request_id": ["bad"], "task.device_id": ["arm"], "task.session": ["s1"]}
    message = to_variants({**envelope, "observation.state": np.zeros((1, 6), np.float32)})
    message.variants[-1].float_32_array.layout.dim[1].size = 2**31
    asking.send(message)
    assert wait_until(lambda: "bad" in asking.replies)
    assert asking.replies["bad"].status == "malformed"
    assert asking.ask(request(1)).status == "ok"
    assert engine._report.malformed == 1


def test_a_newer_request_of_the_same_device_takes_its_place(asking: Asking, start: Any) -> None:
    """Invariant: at most the newest waits; the displaced one is told so."""
    engine = start()
    asking.wait_for(EngineState.READY)
    started, go_on = held_up(engine)
    asking.send(encode_request(request(1), extended=True))
    assert started.wait(10.0)
    for number in (2, 3):
        asking.send(encode_request(request(number), extended=True))
    assert wait_until(lambda: "r2" in asking.replies)
    go_on.set()
    assert wait_until(lambda: {"r1", "r3"} <= asking.replies.keys())
    assert {k: r.status for k, r in asking.replies.items()} == {"r1": "ok", "r2": "superseded", "r3": "ok"}


def test_a_model_that_cannot_be_loaded_is_a_fault_on_the_card(asking: Asking, start: Any, tmp_path: Path) -> None:
    broken = tmp_path / "policy"
    shutil.copytree(POLICY, broken)
    (broken / "model.onnx").write_bytes(b"not a graph")
    start(broken)
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.FAULT)
    assert "model.onnx" in asking.cards[-1].message
    reply = asking.ask(request(1))
    assert reply.status == "engine_unavailable" and "model.onnx" in reply.message


def test_a_misspelt_device_ends_the_process_with_the_known_ones(
    domain_id: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"policy_path:={POLICY}", "device:=onxx"]) == 2
    assert "did you mean 'onnx'?" in capfd.readouterr().err


def test_what_waits_at_shutdown_is_refused(asking: Asking, start: Any) -> None:
    engine = start()
    asking.wait_for(EngineState.READY)
    started, go_on = held_up(engine)
    asking.send(encode_request(request(1), extended=True))
    assert started.wait(10.0)
    asking.send(encode_request(request(2, session="s2"), extended=True))
    assert wait_until(lambda: len(engine._line) == 1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert wait_until(lambda: "r2" in asking.replies)
    go_on.set()
    closing.join(10.0)
    assert asking.replies["r2"].status == "engine_unavailable"
    assert wait_until(lambda: asking.cards[-1].state is EngineState.DRAINING)


def test_an_engine_that_can_share_no_memory_says_so_once(
    domain_id: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, engine = start_engine(shared_memory=str(tmp_path / "absent"))
    engine.close()
    node.close()
    told = [record.getMessage() for record in caplog.records if "shared memory" in record.getMessage()]
    assert len(told) == 1
    assert "absent is no directory" in told[0]
