"""ACT over the whole distributed stack with a board's runtime: the demonstration's processes and its DDS, listened to
from outside; what the robot got is what LeRobot's own policy on torch makes of the very same observations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends import registry
from inference_service.core.batch import Batch, Float32
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import MalformedMessage
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.policy_parity import Difference
from inference_service.transport import create_node
from inference_service.transport.protocol import QoS
from inference_service.wire.envelope import card_from_status, decode_reply, decode_request
from inference_service.wire.shared_memory import SharedReader
from inference_service.wire.variants import from_variants
from tests.integration.test_demo import PROCESSES, broken, processes_of, start
from tests.nodes.harness import POLICY, STATUS

for module in ("mujoco", "onnxruntime", "rich", "matplotlib", "lerobot"):
    pytest.importorskip(module)

DEVICES = ("ascend_om", "ascend_om_3403", "rknn")
NORMALISED = 1e-5
"""Largest difference of an engine's answer, in the policy's normalised actions (about -2 to 2)."""
RADIANS = 1e-5
"""Largest difference of what the device node hands to the dispatcher."""
SECONDS, FEWEST = 6, 5


class Listener:
    """Every request and answer of one domain by request id, every chunk in robot units in its order, and the backend
    types that engines named."""

    def __init__(self) -> None:
        self.requests: dict[str, Batch] = {}
        self.answers: dict[str, Float32] = {}
        self.chunks: list[Float32] = []
        self.failures: list[str] = []
        self.cards: set[str] = set()
        self.node = create_node("listener")
        self._shared = SharedReader()
        deep = QoS(depth=64)
        self.node.create_subscription("/preprocessed/batch", VARIANTS, self._on_request, deep, group="requests")
        self.node.create_subscription("/inference/action", VARIANTS, self._on_reply, deep, group="replies")
        self.node.create_subscription("/actions/act", VARIANTS, self._on_chunk, deep, group="chunks")
        latched = QoS(depth=8, durability="transient_local")
        self.node.create_subscription(CARD_TOPIC, STATUS, self._on_card, latched, group="cards")

    def _on_request(self, message: Any) -> None:
        try:
            request = decode_request(message, shared=self._shared)
        except MalformedMessage as error:  # its pictures were overwritten before this process came to read them
            self.failures.append(str(error))
            return
        # Copies: the reader's buffers are used again.
        self.requests[request.request_id] = {
            key: value if isinstance(value, list) else _copied(value) for key, value in request.batch.items()
        }

    def _on_reply(self, message: Any) -> None:
        reply = decode_reply(message)
        if reply.action is None:
            self.failures.append(f"{reply.status}: {reply.message}")
        else:
            self.answers[reply.request_id] = np.array(reply.action)

    def _on_chunk(self, message: Any) -> None:
        self.chunks.append(np.array(from_variants(message)["action"]))

    def _on_card(self, message: Any) -> None:
        self.cards.add(card_from_status(message).backend_type)

    def close(self) -> None:
        self.node.close()
        self._shared.close()


def _copied(value: Any) -> Any:
    return np.array(value) if isinstance(value, np.ndarray) else replace(value, pixels=np.array(value.pixels))


@pytest.fixture
def listener(domain_id: int) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def torch_actions() -> Iterator[Callable[[Batch], Float32]]:
    """LeRobot's own policy class, in this process: normalised actions of a batch."""
    engine = PureInferenceEngine(registry.load_policy(PolicyFolder.load(POLICY), "cpu"))
    assert engine.spec.backend_type == "lerobot"
    yield lambda batch: engine.infer(batch).action
    engine.close()


@pytest.mark.parametrize("device", DEVICES)
def test_a_board_in_the_whole_stack_computes_what_torch_does(
    device: str,
    domain_id: int,
    tmp_path: Path,
    listener: Listener,
    torch_actions: Callable[[Batch], Float32],
    record_property: Callable[[str, object], None],
) -> None:
    demo = start("distributed", domain_id, tmp_path, "--seconds", str(SECONDS), "--device", device)
    said, _ = demo.communicate(timeout=110)
    report = json.loads((tmp_path / "report.json").read_text())
    assert "vendor's runtime was broken" not in said, said
    assert broken(report) == {} and [f for f in report["failures"] if not f.startswith("P4")] == [], said
    assert report["backend"] == device and listener.cards - {""} == {device}
    assert [process["name"] for process in report["processes"]] == PROCESSES["distributed"]
    assert processes_of(domain_id) == []
    assert listener.failures == []

    asked = {request_id: batch for request_id, batch in listener.requests.items() if request_id in listener.answers}
    expected = {request_id: torch_actions(batch) for request_id, batch in asked.items()}
    assert len({batch["observation.state"].tobytes() for batch in asked.values()}) >= FEWEST, "the arm did not move"
    judge("normalised", [(listener.answers[key], expected[key]) for key in asked], NORMALISED, record_property)

    to_robot = TensorPostprocessor(PolicyFolder.load(POLICY))
    # A chunk does not name its request: it is what the device node makes of one of the answers, to the bit.
    made = {to_robot(answer).tobytes(): key for key, answer in listener.answers.items()}
    pairs = [(chunk, to_robot(expected[made[chunk.tobytes()]])) for chunk in listener.chunks]
    judge("radians", pairs, RADIANS, record_property)


def judge(
    name: str, pairs: list[tuple[Float32, Float32]], tolerance: float, record: Callable[[str, object], None]
) -> None:
    assert len(pairs) >= FEWEST, f"{name}: only {len(pairs)} chunks"
    difference = Difference()
    for got, wanted in pairs:
        difference.add(got, wanted)
    figures = f"max {difference.largest:.2e}, mean {difference.mean:.2e}, cosine {difference.cosine:.9f}"
    record(name, f"{figures}, chunks {len(pairs)}")
    assert difference.largest <= tolerance, f"{name}: {figures}"
