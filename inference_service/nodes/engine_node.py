"""``pure_inference``: batches in, actions out. The engine's end of the wire.

Three threads: the transport's (decodes a request's envelope and puts it in line), the inference thread
(takes one request after the other), and the card's timer, which goes on while a model loads or computes.
Every request is answered, with an action or with the name of an error.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from inference_service import __version__
from inference_service.backends.registry import load_policy, require_known
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import (
    EngineUnavailable,
    Expired,
    InferenceServiceError,
    MalformedMessage,
    PolicyMismatch,
    Superseded,
)
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.nodes.request_line import RequestLine, Waiting
from inference_service.nodes.runtime import NodeParameters, run_node, yield_to_control
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.envelope import (
    SUPPORTED_CODECS,
    WIRE_VERSION,
    EngineCard,
    EngineState,
    Reply,
    Request,
    card_to_status,
    decode_request,
    encode_reply,
    request_address,
)

CARD_PERIOD_S = 0.25
STATS_PERIOD_S = 5.0


class EngineParameters(NodeParameters):
    """``device`` as in the launch arguments; ``threads`` 0 leaves the number to the runtime."""

    node_name: str = "pure_inference"
    policy_path: str
    device: str = "auto"
    input_topic: str = "/preprocessed/batch"
    output_topic: str = "/inference/action"
    threads: int = 0


class EngineNode:
    """Loads a policy, announces itself by its card, answers requests."""

    def __init__(self, node: Node, parameters: EngineParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._logger = logging.getLogger(node.name)
        self._folder = PolicyFolder.load(parameters.policy_path)
        require_known(parameters.device, self._folder)
        self._engine: PureInferenceEngine | None = None
        self._engine_id = f"{node.name}@{uuid.uuid4().hex[:12]}"
        self._state = EngineState.LOADING
        self._reason = ""
        self._closing = threading.Event()
        self._line = RequestLine()
        self._count = 0
        self._failures = 0
        self._last_ms = 0.0
        self._total_ms = 0.0
        self.failure: str | None = None
        self._replies = node.create_publisher(parameters.output_topic, VARIANTS)
        self._cards = node.create_publisher(
            CARD_TOPIC, "diagnostic_msgs/msg/DiagnosticStatus", QoS(depth=1, durability="transient_local")
        )
        self._diagnostics = DiagnosticsPublisher(node, self._collect)
        node.create_timer(CARD_PERIOD_S, self._publish_card, group="card")
        node.create_timer(STATS_PERIOD_S, self._log_stats, group="card")
        node.create_subscription(parameters.input_topic, VARIANTS, self._on_request, group="requests")
        self._worker = threading.Thread(target=self._work, name="inference", daemon=True)
        self._worker.start()

    # -- loading ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        device = self._parameters.device
        self._logger.info("Loading policy from %s with inference_backend=%s...", self._folder.path, device)
        engine = PureInferenceEngine(load_policy(self._folder, device, threads=self._parameters.threads))
        self._engine = engine
        spec = engine.spec
        self._logger.info("Engine loaded: %s, chunk_size=%d", spec.policy_type, spec.chunk_size)
        self._set_state(EngineState.WARMING_UP)
        engine.warm_up()
        self._logger.info(
            "PureInferenceNode ready: input=%s, output=%s, inference_backend=%s, tensor_device=%s",
            self._parameters.input_topic,
            self._parameters.output_topic,
            spec.backend_type,
            spec.device,
        )
        self._set_state(EngineState.READY)
        self._logger.info("Waiting for preprocessed batches from edge node...")

    def _set_state(self, state: EngineState, reason: str = "") -> None:
        self._state, self._reason = state, reason
        self._publish_card()
        self._diagnostics.publish_now()

    # -- requests -----------------------------------------------------------------------------------------------

    def _on_request(self, message: Message) -> None:
        received = time.perf_counter()
        try:
            request = decode_request(message)
        except MalformedMessage as error:
            self._logger.error("Malformed request refused: %s", error)
            self._failures += 1
            sender = request_address(message)
            if sender is not None:
                self._replies.publish(encode_reply(_error_reply(sender, error, self._engine_id), extended=True))
            return
        decode_ms = (time.perf_counter() - received) * 1e3
        displaced = self._line.put(Waiting(request, received, decode_ms))
        if displaced is not None:
            self._refuse(displaced.request, Superseded("a newer request of the same device took its place"))

    def _work(self) -> None:
        yield_to_control()
        try:
            self._load()
        except Exception as error:
            self._logger.error(
                "Engine failed to load: %s", error, exc_info=not isinstance(error, InferenceServiceError)
            )
            self._set_state(EngineState.FAULT, str(error))
        while not self._closing.is_set():
            waiting = self._line.take(timeout_s=0.2)
            if waiting is not None:
                self._answer(waiting)

    def _answer(self, waiting: Waiting) -> None:
        request = waiting.request
        started = time.perf_counter()
        queue_ms = (started - waiting.received) * 1e3 - waiting.decode_ms
        try:
            self._check(request, queue_ms + waiting.decode_ms)
            assert self._engine is not None
            result = self._engine.infer(request.batch, request.context)
        except InferenceServiceError as error:
            self._failures += 1
            self._logger.warning("Request %s refused: %s", request.request_id, error)
            self._refuse(request, error)
            return
        except Exception as error:
            self._failures += 1
            self._logger.exception("Request %s failed", request.request_id)
            self._refuse(request, InferenceServiceError(f"{type(error).__name__}: {error}"))
            return
        timing = {"queue": queue_ms, "decode": waiting.decode_ms, "inference": result.inference_ms, "encode": 0.0}
        reply = Reply(
            request.request_id,
            result.action,
            timing_ms=timing,
            device_id=request.device_id,
            session=request.session,
            engine_id=self._engine_id,
        )
        self._replies.publish(encode_reply(reply, extended=request.extended))
        self._account(result.inference_ms)

    def _check(self, request: Request, waited_ms: float) -> None:
        if self._engine is None or self._state is not EngineState.READY:
            raise EngineUnavailable(f"engine is {self._state.name} {self._reason}".strip())
        if request.deadline_ms is not None and waited_ms > request.deadline_ms:
            raise Expired(f"waited {waited_ms:.0f} ms, the device gave it {request.deadline_ms:.0f} ms")
        if request.fingerprint and request.fingerprint != self._folder.fingerprint:
            raise PolicyMismatch(f"fingerprint {request.fingerprint} on the device, {self._folder.fingerprint} here")

    def _refuse(self, request: Request, error: InferenceServiceError) -> None:
        if request.extended:  # the plain form knows no errors: such a device waits for its own time-out
            sender = Reply(request.request_id, device_id=request.device_id, session=request.session)
            self._replies.publish(encode_reply(_error_reply(sender, error, self._engine_id), extended=True))

    def _account(self, inference_ms: float) -> None:
        self._count += 1
        self._last_ms = inference_ms
        self._total_ms += inference_ms
        if self._count == 1:
            self._logger.info("✓ First inference completed: latency=%.1fms", inference_ms)

    # -- telling ------------------------------------------------------------------------------------------------

    def _log_stats(self) -> None:
        if self._count:
            self._logger.info(
                "[stats] count=%d, avg=%.1fms, last=%.1fms", self._count, self._total_ms / self._count, self._last_ms
            )

    def _card(self) -> EngineCard:
        config = self._folder.config
        spec = self._engine.spec if self._engine else None
        return EngineCard(
            wire=WIRE_VERSION,
            engine_id=self._engine_id,
            state=self._state,
            message=self._reason,
            policy_type=config.type,
            backend_type=spec.backend_type if spec else "",
            device=spec.device if spec else self._parameters.device,
            chunk_size=config.chunk_size,
            action_dim=config.action_dim,
            input_features={name: feature.shape for name, feature in config.input_features.items()},
            output_features={name: feature.shape for name, feature in config.output_features.items()},
            feature_types={
                f.name: f.type.value for f in (*config.input_features.values(), *config.output_features.values())
            },
            fingerprint=self._folder.fingerprint,
            codecs=SUPPORTED_CODECS,
            queue_depth=len(self._line),
            version=__version__,
            n_obs_steps=spec.n_obs_steps if spec else config.n_obs_steps,
            supports_rtc=spec.supports_rtc if spec else False,
            max_batch=spec.max_batch if spec else 1,
            image_size=spec.image_size if spec else None,
            versions=dict(spec.versions) if spec else {},
        )

    def _publish_card(self) -> None:
        self._cards.publish(card_to_status(self._card()))

    def _collect(self) -> list[Status]:
        level = {EngineState.READY: Level.OK, EngineState.FAULT: Level.ERROR}.get(self._state, Level.WARN)
        values = {
            "state": self._state.name,
            "count": str(self._count),
            "failures": str(self._failures),
            "last_ms": f"{self._last_ms:.3f}",
            "queue_depth": str(len(self._line)),
            "callback_errors": str(self._node.errors),
        }
        message, ready = self._reason or self._state.name, self._state is EngineState.READY
        return [Status(level, self._node.name, message, values, self._parameters.device, ready)]

    def close(self) -> None:
        """Refuse what waits, say DRAINING, release the runtime."""
        self._set_state(EngineState.DRAINING)
        self._closing.set()
        for waiting in self._line.drain():
            self._refuse(waiting.request, EngineUnavailable("engine is shutting down"))
        self._worker.join(timeout=5.0)
        if self._engine is not None and not self._worker.is_alive():
            self._engine.close()
        self._diagnostics.close()


def _error_reply(sender: Reply, error: InferenceServiceError, engine_id: str) -> Reply:
    return replace(sender, status=error.wire_name, message=str(error), engine_id=engine_id)


def main(argv: Sequence[str]) -> int:
    """Entry point of ``pure_inference_node``."""
    return run_node(EngineParameters, EngineNode, argv)
