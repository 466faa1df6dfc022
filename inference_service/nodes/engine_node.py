"""``pure_inference``: batches in, actions out. The engine's end of the wire.

Three threads: the transport's (decodes a request's envelope and puts it in line), the inference thread
(takes what waits, as many of equal shapes as one pass may hold), and the card's timer, which goes on while a model
loads or computes. Every request is answered, with an action or with the name of an error.

A policy that looks back gets its earlier observations with the request. Where a device sends none, it gets a history
for each session, of the observations that were answered: one that was displaced, expired or refused is no part of it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from inference_service import __version__
from inference_service.backends.options import parse_extra
from inference_service.backends.registry import load_policy, require_known
from inference_service.core.errors import (
    EngineUnavailable,
    Expired,
    InferenceServiceError,
    InvalidObservation,
    MalformedMessage,
    PolicyMismatch,
    RequestRejected,
    Superseded,
)
from inference_service.core.policy import PolicyWrapper
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.nodes.engine_files import PolicyFilePublisher
from inference_service.nodes.engine_host import Answer, EngineHost
from inference_service.nodes.engine_report import EngineReport, device_values
from inference_service.nodes.engine_sessions import SessionTable
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
from inference_service.wire.shared_memory import DEFAULT_DIRECTORY, EngineMemory

CARD_PERIOD_S = 0.25
STATS_PERIOD_S = 5.0
REQUESTS_DEPTH = 256
"""Devices share the subscription's queue: as deep as many of them need who send at the same moment."""


class EngineParameters(NodeParameters):
    """``device`` as in the launch arguments; ``threads`` 0 leaves the number to the runtime; ``backend_options``: its
    own, a JSON object.

    ``batch_max``: how many devices' requests one pass may answer, where the backend can (1 switches it off).
    ``batch_wait_ms``: how long a request may wait for those of other devices; one that is alone never waits.
    ``serve_policy_files``: whether devices may fetch the policy's small files from here.
    ``shared_memory``: directory through which devices that see it too send their pictures; empty: none do.
    """

    node_name: str = "pure_inference"
    policy_path: str
    device: str = "auto"
    input_topic: str = "/preprocessed/batch"
    output_topic: str = "/inference/action"
    threads: int = 0
    backend_options: str = ""
    batch_max: int = Field(default=8, ge=1, le=256)
    batch_wait_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    serve_policy_files: bool = True
    shared_memory: str = str(DEFAULT_DIRECTORY)


class EngineNode:
    """Loads a policy, announces itself by its card, answers requests."""

    def __init__(self, node: Node, parameters: EngineParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._logger = logging.getLogger(node.name)
        self._folder = PolicyFolder.load(parameters.policy_path)
        require_known(parameters.device, self._folder)
        self._engine_id = f"{node.name}@{uuid.uuid4().hex[:12]}"
        self._closing = threading.Event()
        self._line = RequestLine()
        self._sessions = SessionTable(self._on_conflict)
        self._report = EngineReport()
        self._memory = EngineMemory(parameters.shared_memory)
        if self._memory.problem:
            self._logger.warning("No shared memory, pictures travel in messages: %s", self._memory.problem)
        self.failure: str | None = None
        self._replies = node.create_publisher(parameters.output_topic, VARIANTS)
        self._cards = node.create_publisher(
            CARD_TOPIC, "diagnostic_msgs/msg/DiagnosticStatus", QoS(depth=1, durability="transient_local")
        )
        self._host = EngineHost(self._load_policy, self._logger, self._on_change)
        self._diagnostics = DiagnosticsPublisher(node, self._collect)
        self._files = (
            PolicyFilePublisher(node, self._folder, self._engine_id) if parameters.serve_policy_files else None
        )
        node.create_timer(CARD_PERIOD_S, self._show, group="card")
        node.create_timer(STATS_PERIOD_S, self._log_stats, group="card")
        qos = QoS(depth=REQUESTS_DEPTH)
        node.create_subscription(parameters.input_topic, VARIANTS, self._on_request, qos, group="requests")
        self._worker = threading.Thread(target=self._work, name="inference", daemon=True)
        self._worker.start()

    def _load_policy(self) -> PolicyWrapper:
        device = self._parameters.device
        self._logger.info("Loading policy from %s with inference_backend=%s...", self._folder.path, device)
        options = parse_extra(self._parameters.backend_options)
        return load_policy(self._folder, device, threads=self._parameters.threads, **options)

    def _on_change(self) -> None:
        spec, state = self._host.spec, self._host.state
        if state is EngineState.WARMING_UP and spec:
            self._logger.info("Engine loaded: %s, chunk_size=%d", spec.policy_type, spec.chunk_size)
        if state is EngineState.READY and spec:
            self._logger.info(
                "PureInferenceNode ready: input=%s, output=%s, inference_backend=%s, tensor_device=%s",
                self._parameters.input_topic,
                self._parameters.output_topic,
                spec.backend_type,
                spec.device,
            )
            self._logger.info("Waiting for preprocessed batches from edge node...")
        self._publish_card()
        self._diagnostics.publish_now()

    def _on_conflict(self, device_id: str) -> None:
        self._logger.warning("Two devices at once call themselves %s: give each node a name of its own", device_id)

    # -- requests -----------------------------------------------------------------------------------------------

    def _on_request(self, message: Message) -> None:
        received = time.perf_counter()
        try:
            request = decode_request(message, shared=self._memory.reader)
        except MalformedMessage as error:
            self._on_malformed(message, error)
            return
        if request.extended:
            self._sessions.note(request.session, request.device_id)
        problem = self._host.problem
        if problem:
            self._refuse(request, EngineUnavailable(problem))
            return
        decode_ms = (time.perf_counter() - received) * 1e3
        displaced = self._line.put(Waiting(request, received, decode_ms))
        if displaced is not None:
            same = displaced.request.session == request.session
            why = "a newer request of the same device took its place" if same else "the line is full"
            self._refuse(displaced.request, Superseded(why))

    def _on_malformed(self, message: Message, error: MalformedMessage) -> None:
        self._report.malformed += 1
        if self._report.may_tell_of_malformed():
            self._logger.error("Malformed request refused: %s", error)
        sender = request_address(message)
        if sender is not None:
            self._sessions.note(sender.session, sender.device_id)
            self._tell(sender, error)

    def _work(self) -> None:
        yield_to_control()
        self._host.start()
        wait_s = self._parameters.batch_wait_ms / 1e3
        while not self._closing.is_set():
            self._host.tend()
            for session in self._sessions.take_ended():
                self._host.forget(session)
            group = self._line.take(0.2, self._batch_max, wait_s)
            if group:
                self._answer(group)

    @property
    def _batch_max(self) -> int:
        spec = self._host.spec
        return min(self._parameters.batch_max, spec.max_batch) if spec else 1

    def _answer(self, group: Sequence[Waiting]) -> None:
        started = time.perf_counter()
        served: list[tuple[Waiting, float]] = []
        for waiting in group:
            queue_ms = (started - waiting.received) * 1e3 - waiting.decode_ms
            try:
                self._check(waiting.request, queue_ms + waiting.decode_ms)
            except InferenceServiceError as error:
                self._refuse(waiting.request, error)
            else:
                served.append((waiting, queue_ms))
        answers = self._host.infer_many([(w.request.batch, w.request.context) for w, _ in served])
        inferred = time.perf_counter()
        self._report.passes += bool(served)
        for (waiting, queue_ms), answer in zip(served, answers, strict=True):
            self._reply(waiting, answer, queue_ms, (time.perf_counter() - inferred) * 1e3)

    def _reply(self, waiting: Waiting, answer: Answer, queue_ms: float, encode_ms: float) -> None:
        """``encode_ms``: spent on the replies to others that shared the pass."""
        request = waiting.request
        if isinstance(answer, InferenceServiceError):
            self._refuse(request, answer)
            return
        inference_ms = answer.inference_ms
        timing = {"queue": queue_ms, "decode": waiting.decode_ms, "inference": inference_ms, "encode": encode_ms}
        reply = Reply(
            request.request_id,
            answer.action,
            timing_ms=timing,
            device_id=request.device_id,
            session=request.session,
            engine_id=self._engine_id,
        )
        self._replies.publish(encode_reply(reply, extended=request.extended))
        if request.extended:
            self._sessions.count_served(request.device_id)
        if self._report.add(inference_ms) == 1:
            self._logger.info("✓ First inference completed: latency=%.1fms", inference_ms)

    def _check(self, request: Request, waited_ms: float) -> None:
        if request.deadline_ms is not None and waited_ms > request.deadline_ms:
            raise Expired(f"waited {waited_ms:.0f} ms, the device gave it {request.deadline_ms:.0f} ms")
        if request.fingerprint and request.fingerprint != self._folder.fingerprint:
            raise PolicyMismatch(f"fingerprint {request.fingerprint} on the device, {self._folder.fingerprint} here")
        if not request.extended and self._host.remembers:
            raise InvalidObservation(
                f"policy type '{self._folder.config.type}' keeps a history for each robot, and a request in the plain "
                "form does not tell whose it is: use this package's device node"
            )

    def _refuse(self, request: Request, error: InferenceServiceError) -> None:
        """Answer with an error. The plain form knows none: such a device waits for its own time-out."""
        self._report.refused[error.wire_name] += 1
        if not isinstance(error, RequestRejected) and self._report.may_tell_of_refused():
            self._logger.warning("Request %s refused: %s", request.request_id, error)
        if request.extended:
            self._tell(Reply(request.request_id, device_id=request.device_id, session=request.session), error)

    def _tell(self, sender: Reply, error: InferenceServiceError) -> None:
        if self._sessions.count_refused(sender.device_id):
            reply = replace(sender, status=error.wire_name, message=str(error), engine_id=self._engine_id)
            self._replies.publish(encode_reply(reply, extended=True))

    # -- telling ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        self._host.watch()
        if self._host.problem:
            self._refuse_waiting()
        self._publish_card()

    def _refuse_waiting(self) -> None:
        """Nobody waits for an engine that is at fault."""
        for waiting in self._line.drain():
            self._refuse(waiting.request, EngineUnavailable(self._host.problem or "engine is READY again"))

    def _log_stats(self) -> None:
        if self._report.count:
            self._logger.info("[stats] %s", self._report.line())

    def _card(self) -> EngineCard:
        config = self._folder.config
        spec = self._host.spec
        features = (*config.input_features.values(), *config.output_features.values())
        return EngineCard(
            wire=WIRE_VERSION,
            engine_id=self._engine_id,
            state=self._host.state,
            message=self._host.reason,
            policy_type=config.type,
            backend_type=spec.backend_type if spec else "",
            device=spec.device if spec else self._parameters.device,
            chunk_size=config.chunk_size,
            action_dim=config.action_dim,
            input_features={name: feature.shape for name, feature in config.input_features.items()},
            output_features={name: feature.shape for name, feature in config.output_features.items()},
            feature_types={feature.name: feature.type.value for feature in features},
            fingerprint=self._folder.fingerprint,
            codecs=SUPPORTED_CODECS,
            queue_depth=len(self._line),
            version=__version__,
            n_obs_steps=spec.n_obs_steps if spec else config.n_obs_steps,
            earlier_observations=spec.earlier_observations if spec else 0,
            supports_rtc=spec.supports_rtc if spec else False,
            max_batch=self._batch_max,
            image_size=spec.image_size if spec else None,
            fps=self._folder.fps,
            versions=dict(spec.versions) if spec else {},
            shared_memory=self._memory.token,
        )

    def _publish_card(self) -> None:
        self._cards.publish(card_to_status(self._card()))

    def _collect(self) -> list[Status]:
        state = self._host.state
        level = {EngineState.READY: Level.OK, EngineState.FAULT: Level.ERROR}.get(state, Level.WARN)
        values = {
            "state": state.name,
            **self._report.values(),
            "queue_depth": str(len(self._line)),
            "faults": str(self._host.faults),
            "callback_errors": str(self._node.errors),
            **device_values(self._sessions.devices()),
        }
        message, ready = self._host.reason or state.name, state is EngineState.READY
        return [Status(level, self._node.name, message, values, self._parameters.device, ready)]

    def close(self) -> None:
        """Refuse what waits, say DRAINING, release the runtime."""
        self._host.drain()
        self._closing.set()
        for waiting in self._line.drain():
            self._refuse(waiting.request, EngineUnavailable("engine is shutting down"))
        self._worker.join(timeout=5.0)
        if not self._worker.is_alive():
            self._host.close()
        self._memory.close()
        self._diagnostics.close()


def main(argv: Sequence[str]) -> int:
    """Entry point of ``pure_inference_node``."""
    return run_node(EngineParameters, EngineNode, argv)
