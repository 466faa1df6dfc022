"""Several devices at one engine, on the real wire: who shares a pass, whose session it is, who harms whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import AffineImage
from inference_service.core.policy import LeftOver
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes import engine_node
from inference_service.nodes.engine_client import VARIANTS
from inference_service.nodes.engine_node import EngineNode
from inference_service.transport import create_node
from inference_service.transport.protocol import QoS
from inference_service.wire.envelope import EngineState, Request, encode_request
from inference_service.wire.interfaces import serialize
from inference_service.wire.policy_files import POLICY_TOPIC, SUBSCRIPTION_DEPTH, PolicyAssembler, PolicyFiles
from inference_service.wire.variants import VARIANTS_LIST, to_variants
from tests.nodes.engine_rig import Asking, ToldPolicy, request, start_engine
from tests.nodes.harness import POLICY, wait_until

Start = Callable[..., EngineNode]


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


@pytest.fixture
def start(domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    opened: list[Any] = []

    def make(policy: ToldPolicy, **parameters: Any) -> EngineNode:
        monkeypatch.setattr(engine_node, "load_policy", lambda *args, **options: policy)
        opened.extend(start_engine(**parameters))
        return opened[-1]

    yield make
    for thing in reversed(opened):
        thing.close()


def of(session: str, number: int = 1, value: float = 0.0, **changes: Any) -> Request:
    one = request(number, session=session, device_id=f"device of {session}", **changes)
    state = np.full((1, 6), value, np.float32)
    return replace(one, request_id=f"{session}-{number}", batch={**one.batch, "observation.state": state})


def held_up(policy: ToldPolicy, asking: Asking) -> None:
    """The engine computes for a session of no interest, until the gate opens."""
    policy.inside.clear()
    policy.gate.clear()
    asking.send(encode_request(of("first"), extended=True))
    assert policy.inside.wait(10.0)


def test_requests_of_several_devices_share_a_pass(asking: Asking, start: Start) -> None:
    policy = ToldPolicy(max_batch=8)
    engine = start(policy)
    assert asking.wait_for(EngineState.READY).max_batch == 8
    held_up(policy, asking)
    for number in range(5):
        asking.send(encode_request(of(f"s{number}", value=number), extended=True))
    assert wait_until(lambda: len(engine._line) == 5)
    policy.gate.set()
    assert wait_until(lambda: len(asking.replies) == 6)
    assert policy.passes[-1] == [f"s{number}" for number in range(5)]
    for number in range(5):
        reply = asking.replies[f"s{number}-1"]
        assert reply.action is not None and float(reply.action[0, 0]) == number, "another's answer"
        assert (reply.session, reply.device_id) == (f"s{number}", f"device of s{number}")


@pytest.mark.parametrize(("allowed", "able", "sizes"), [(2, 8, [2, 2, 1]), (8, 2, [2, 2, 1]), (1, 8, [1] * 5)])
def test_a_pass_is_as_large_as_both_the_parameter_and_the_backend_allow(
    asking: Asking, start: Start, allowed: int, able: int, sizes: list[int]
) -> None:
    policy = ToldPolicy(max_batch=able)
    engine = start(policy, batch_max=allowed)
    assert asking.wait_for(EngineState.READY).max_batch == min(allowed, able)
    held_up(policy, asking)
    for number in range(5):
        asking.send(encode_request(of(f"s{number}"), extended=True))
    assert wait_until(lambda: len(engine._line) == 5)
    before = len(policy.passes) + 1
    policy.gate.set()
    assert wait_until(lambda: len(asking.replies) == 6)
    assert [len(p) for p in policy.passes[before:]] == sizes


def test_what_is_wrong_with_one_request_of_a_pass_is_told_to_its_sender_alone(asking: Asking, start: Start) -> None:
    policy = ToldPolicy(max_batch=8)
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    held_up(policy, asking)
    asking.send(encode_request(of("good", value=3.0), extended=True))
    asking.send(encode_request(of("bad", value=float("nan")), extended=True))
    asking.send(encode_request(of("late", deadline_ms=0.0), extended=True))
    asking.send(encode_request(of("stranger", fingerprint="feedbeef"), extended=True))
    assert wait_until(lambda: len(engine._line) == 4)
    policy.gate.set()
    assert wait_until(lambda: len(asking.replies) == 5)
    statuses = {reply.session: reply.status for reply in asking.replies.values()}
    del statuses["first"]
    assert statuses == {
        "good": "ok",
        "bad": "invalid_observation",
        "late": "expired",
        "stranger": "policy_mismatch",
    }


def test_session_seed_and_left_over_reach_the_policy(asking: Asking, start: Start) -> None:
    policy = ToldPolicy(supports_rtc=True)
    start(policy)
    assert asking.wait_for(EngineState.READY).supports_rtc
    left_over = LeftOver(np.ones((7, 6), np.float32), 2, 5)
    assert asking.ask(of("s1", seed=42, left_over=left_over)).status == "ok"
    context = policy.contexts[-1]
    assert (context.session, context.seed) == ("s1", 42) and context.left_over is not None
    np.testing.assert_array_equal(context.left_over.actions, left_over.actions)
    assert (context.left_over.inference_delay, context.left_over.execution_horizon) == (2, 5)
    narrow = LeftOver(np.ones((7, 5), np.float32), 2, 5)
    assert asking.ask(of("s1", 2, left_over=narrow)).status == "invalid_observation"


def test_a_left_over_for_a_policy_without_rtc_is_refused(asking: Asking, start: Start) -> None:
    start(ToldPolicy())
    asking.wait_for(EngineState.READY)
    reply = asking.ask(of("s1", left_over=LeftOver(np.ones((7, 6), np.float32), 2, 5)))
    assert reply.status == "invalid_observation" and "chunking" in reply.message


class Remembering(ToldPolicy):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[str] = []

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


def test_a_device_that_starts_again_starts_without_a_history(asking: Asking, start: Start) -> None:
    policy = Remembering()
    start(policy)
    asking.wait_for(EngineState.READY)
    policy.forgotten.clear()
    for session in ("s1", "s2"):
        assert asking.ask(replace(of(session), device_id="arm")).status == "ok"
    assert wait_until(lambda: policy.forgotten == ["s1"])
    assert asking.ask(replace(of("other"), device_id="leg")).status == "ok"
    assert policy.forgotten == ["s1"]


def test_a_policy_with_a_history_is_not_for_those_who_do_not_say_who_they_are(asking: Asking, start: Start) -> None:
    policy = Remembering()
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    calls = len(policy.passes)
    asking.send(encode_request(request(1), extended=False))
    assert wait_until(lambda: engine._report.refused["invalid_observation"] == 1)
    assert len(policy.passes) == calls and not asking.replies


def test_a_device_that_sends_rubbish_fast_does_not_starve_another(asking: Asking, start: Start) -> None:
    """Fault: one device sends malformed messages, and requests of its own, as fast as it can.

    Expected: the other's requests are answered, one after the other; the first is counted.
    """
    policy = ToldPolicy(max_batch=4)
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    flood = Asking("flooding")
    stop = threading.Event()
    rubbish = to_variants({"task.request_id": ["x"], "task.device_id": ["flood"], "task.session": ["f"]})
    own = encode_request(of("f"), extended=True, codecs={"observation.images.top": "u8"})

    def send() -> None:
        while not stop.wait(0.004):
            flood.send(rubbish)
            flood.send(own)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert wait_until(lambda: engine._report.malformed > 5)
        for number in range(20):
            assert asking.ask(of("s1", number)).status == "ok"
        # A rate takes half a second to be known, and twenty answers may come sooner.
        assert wait_until(lambda: engine._sessions.devices()["flood"].rate_hz > 0)
    finally:
        stop.set()
        thread.join(10.0)
        flood.node.close()
    devices = engine._sessions.devices()
    assert devices["device of s1"].served == 20 and devices["device of s1"].refused == 0
    assert devices["flood"].refused > 5


def test_no_device_is_served_less_than_another(asking: Asking, start: Start) -> None:
    """Five send more than the engine has time for, one of them six times as much as the others."""
    policy = ToldPolicy(max_batch=2)
    policy.act = lambda batch: time.sleep(0.03)
    engine = start(policy)
    asking.wait_for(EngineState.READY)
    codecs = {"observation.images.top": "u8", "observation.images.wrist": "u8"}
    requests = [encode_request(of(f"s{n}"), extended=True, codecs=codecs) for n in range(5)]
    messages = [bytes(serialize(message, VARIANTS)) for message in requests]
    publishers = [asking.node.create_publisher("/preprocessed/batch", VARIANTS) for _ in messages]
    assert wait_until(lambda: all(publisher.matched for publisher in publishers))
    deadline = time.monotonic() + 30.0
    while engine._report.count < 60 and time.monotonic() < deadline:
        for publisher, message in zip(publishers, messages, strict=True):
            publisher.publish_serialized(message)
            publishers[0].publish_serialized(messages[0])
        time.sleep(0.02)
    served = {name: device.served for name, device in engine._sessions.devices().items()}
    assert len(served) == 5 and min(served.values()) >= 0.67 * max(served.values()), served
    received = {name: device.received for name, device in engine._sessions.devices().items()}
    assert received["device of s0"] > 4 * received["device of s1"]


def test_the_policy_s_pixels_are_the_message_s(asking: Asking, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the wire to the policy nothing is copied: a camera's pixels lie in the DDS library's own buffer."""
    policy, messages = ToldPolicy(), []
    decode = engine_node.decode_request

    def noted(message: Any, **options: Any) -> Any:
        messages.append(message)
        return decode(message, **options)

    monkeypatch.setattr(engine_node, "decode_request", noted)
    start(policy)
    asking.wait_for(EngineState.READY)
    codecs = {"observation.images.top": "u8", "observation.images.wrist": "u8"}
    asking.send(encode_request(of("s1", value=2.0), extended=True, codecs=codecs))
    assert wait_until(lambda: "s1-1" in asking.replies)
    fields = {variant.key: variant for variant in messages[-1].variants}
    for key in codecs:
        image = policy.batches[-1][key]
        assert isinstance(image, AffineImage) and not image.pixels.flags.owndata
        assert np.shares_memory(image.pixels, fields[key].int_32_array.data)
    state = fields["observation.state"].float_32_array.data
    assert np.shares_memory(policy.batches[-1]["observation.state"], state)


def fetched(timeout_s: float = 20.0) -> PolicyFiles:
    node, assembler, found = create_node("fetching"), PolicyAssembler(), []

    def on_part(message: Any) -> None:
        files = assembler.add(message)
        if files is not None:
            found.append(files)

    qos = QoS(depth=SUBSCRIPTION_DEPTH, durability="transient_local")
    node.create_subscription(POLICY_TOPIC, VARIANTS_LIST, on_part, qos, group="files")
    try:
        assert wait_until(lambda: found, timeout_s), f"{assembler.progress()} parts"
    finally:
        node.close()
    return found[0]


def test_a_device_without_a_policy_directory_gets_one(asking: Asking, start: Start, tmp_path: Any) -> None:
    start(ToldPolicy())
    asking.wait_for(EngineState.READY)
    files = fetched()
    files.write(tmp_path / "cache")
    there, here = PolicyFolder.load(POLICY), PolicyFolder.load(tmp_path / "cache")
    assert here.fingerprint == files.fingerprint == there.fingerprint
    assert not any(name.startswith("model") for name in files.files)


def test_large_files_arrive_too(asking: Asking, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer may have 20 MB; whoever comes after it was sent gets it all the same."""
    from inference_service.nodes import engine_files

    large = {"config.json": b"{}", "tokenizer/tokenizer.json": np.random.default_rng(0).bytes(20_000_003)}
    monkeypatch.setattr(engine_files, "small_files", lambda folder: large)
    engine = start(ToldPolicy())
    asking.wait_for(EngineState.READY)
    assert wait_until(lambda: engine._files.done)
    assert dict(fetched(60.0).files) == large


def test_an_engine_may_keep_its_files_to_itself(asking: Asking, start: Start) -> None:
    start(ToldPolicy(), serve_policy_files=False)
    asking.wait_for(EngineState.READY)
    with pytest.raises(AssertionError, match="parts"):
        fetched(1.0)
