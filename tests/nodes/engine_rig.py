"""What tests of the engine node share: a device by hand, and a policy that does what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inference_service.core.batch import Batch, Float32
from inference_service.core.engine import synthetic_batch
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.nodes.engine_node import EngineNode, EngineParameters
from inference_service.transport import create_node
from inference_service.transport.protocol import QoS
from inference_service.wire.envelope import (
    EngineCard,
    EngineState,
    Reply,
    Request,
    card_from_status,
    decode_reply,
    encode_request,
)
from tests.nodes.harness import POLICY, STATUS, wait_until


class Asking:
    """A device by hand: sends requests, keeps replies and cards."""

    def __init__(self, name: str = "asking") -> None:
        self.node = create_node(name)
        self.replies: dict[str, Reply] = {}
        self.cards: list[EngineCard] = []
        self._publisher = self.node.create_publisher("/preprocessed/batch", VARIANTS)
        self.node.create_subscription("/inference/action", VARIANTS, self._on_reply, QoS(depth=256))
        self.node.create_subscription(CARD_TOPIC, STATUS, self._on_card, QoS(depth=8, durability="transient_local"))

    def _on_reply(self, message: Any) -> None:
        reply = decode_reply(message)
        self.replies[reply.request_id] = reply

    def _on_card(self, message: Any) -> None:
        self.cards.append(card_from_status(message))

    def send(self, message: Any) -> None:
        assert wait_until(lambda: self._publisher.matched), "no engine"
        self._publisher.publish(message)

    def ask(self, request: Request, *, extended: bool = True) -> Reply:
        self.send(encode_request(request, extended=extended))
        assert wait_until(lambda: request.request_id in self.replies), "no reply"
        return self.replies[request.request_id]

    def wait_for(self, state: EngineState, timeout_s: float = 30.0) -> EngineCard:
        assert wait_until(lambda: self.cards and self.cards[-1].state is state, timeout_s), self.cards[-1:]
        return self.cards[-1]


def request(number: int = 1, **changes: Any) -> Request:
    batch = synthetic_batch(PolicyFolder.load(POLICY).config.input_features)
    fields = {"device_id": "arm", "session": "s1", "sequence": number, "deadline_ms": 5000.0}
    return Request(**{"request_id": f"r{number}", "batch": batch, **fields, **changes})


class ToldPolicy:
    """Answers with the first joint of the state, and does what ``act`` does first; notes its calls.

    While ``gate`` is cleared it computes on. It batches where ``max_batch`` is above 1.
    """

    def __init__(self, max_batch: int = 1, **spec: Any) -> None:
        config = PolicyFolder.load(POLICY).config
        fields = PolicySpec("act", "told", "cpu", config.chunk_size, config.action_dim, config.input_features)
        self.spec = replace(fields, max_batch=max_batch, **spec)
        self.act: Callable[[Batch], None] = lambda batch: None
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()
        self.passes: list[list[str]] = []
        self.batches: list[Batch] = []
        self.contexts: list[InferenceContext] = []
        self.closed = False

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        return self.predict_action_chunks([(batch, context)])[0]

    def predict_action_chunks(self, requests: Sequence[tuple[Batch, InferenceContext]]) -> list[Float32]:
        self.inside.set()
        assert self.gate.wait(20.0)
        self.passes.append([context.session for _, context in requests])
        self.contexts += [context for _, context in requests]
        self.batches += [batch for batch, _ in requests]
        return [self._chunk(batch) for batch, _ in requests]

    def _chunk(self, batch: Batch) -> Float32:
        self.act(batch)
        value = float(np.asarray(batch["observation.state"])[0, 0])
        return np.full((self.spec.chunk_size, self.spec.action_dim), value, np.float32)

    def close(self) -> None:
        self.closed = True


def start_engine(policy: Path = POLICY, **parameters: Any) -> tuple[Any, EngineNode]:
    """An engine's node and the engine on it; close them in reverse order."""
    node = create_node("pure_inference")
    return node, EngineNode(node, EngineParameters(policy_path=str(policy), **{"device": "onnx", **parameters}))


def ready(asking: Asking) -> None:
    asking.wait_for(EngineState.READY)
