"""The device's side of the wire: one request out, its own reply back, never without a deadline.

Until an engine's card has been seen the plain form is spoken (WIRE.md), which an unmodified IB-Robot
engine understands. Once a card was seen, its silence means that the engine is lost: requests in flight
are woken with :class:`EngineUnavailable` at once, later ones are refused until it is READY again.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from inference_service.core.batch import Batch, Float32
from inference_service.core.errors import (
    EngineUnavailable,
    InferenceServiceError,
    MalformedMessage,
    PolicyMismatch,
    RequestTimeout,
    error_from_wire,
)
from inference_service.core.policy import NO_CONTEXT, InferenceContext
from inference_service.nodes.device_encodings import Encodings
from inference_service.nodes.device_handshake import Handshake
from inference_service.nodes.device_memory import DeviceMemory
from inference_service.transport.protocol import Message, Node, QoS
from inference_service.wire.envelope import (
    CARD_NAME,
    WIRE_VERSION,
    EngineCard,
    EngineState,
    Reply,
    Request,
    card_from_status,
    decode_reply,
    encode_request,
)
from inference_service.wire.shared_memory import SharedRing

CARD_TOPIC = "/inference/engine"
CARD_LOST_S = 0.75
"""An engine whose card (sent at 4 Hz) has been silent for this long is lost."""
CARD_GRACE_S = 1.0
"""How long an engine without a card is looked at before it is taken for a plain one."""
QUIET_S = 1.0
"""After word of a message that was dropped, of no other of its kind for so long."""
VARIANTS = "ibrobot_msgs/msg/VariantsList"


@dataclass
class _Pending:
    engine_id: str
    session: str
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    lost: str = ""

    def is_answered_by(self, reply: Reply) -> bool:
        """Whether it is this session's, and of the engine that was asked: every engine on the topic hears every
        request, and one that is loading or holds another policy would refuse it at once."""
        if not self.engine_id:
            return reply.session in ("", self.session)
        return (reply.session, reply.engine_id) == (self.session, self.engine_id)


@dataclass(frozen=True)
class _Heard:
    """A card, when it came (monotonic seconds), and what the handshake makes of it."""

    card: EngineCard
    at_s: float
    mismatch: str | None


@dataclass(frozen=True)
class EngineAnswer:
    """A normalised chunk, float32 (chunk, action_dim), and where the time went (ms)."""

    action: Float32
    timing_ms: dict[str, float]
    round_trip_ms: float


class EngineClient:
    """Asynchronous proxy of an engine. Safe to call from several threads."""

    def __init__(
        self,
        node: Node,
        handshake: Handshake,
        encodings: Encodings,
        request_topic: str,
        result_topic: str,
        on_engine_change: Callable[[], None] = lambda: None,
        shared_memory: str = "",
        device_id: str = "",
    ) -> None:
        """``device_id``: who this device is; empty: somebody new."""
        self._node = node
        self._logger = logging.getLogger(node.name)
        self._handshake = handshake
        self.encodings = encodings
        self._memory = DeviceMemory(shared_memory, self._logger)
        self._on_change = on_engine_change
        self._device_id = device_id or f"{node.name}@{uuid.uuid4().hex[:8]}"
        self._session = uuid.uuid4().hex[:16]
        self._sessions = {self._session}
        self._sequence = 0
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._cards: dict[str, _Heard] = {}
        self._card_seen = False
        self._problem: str | None = None
        self._matched_since: float | None = None
        self.dropped: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}
        self._publisher = node.create_publisher(request_topic, VARIANTS)
        self._replies = node.create_subscription(result_topic, VARIANTS, self._on_reply, group="replies")
        card_qos = QoS(depth=8, durability="transient_local")
        self._card_reader = node.create_subscription(
            CARD_TOPIC, "diagnostic_msgs/msg/DiagnosticStatus", self._on_card, card_qos, group="cards"
        )
        node.create_timer(0.1, self._watch, group="cards")

    def problem(self) -> str | None:
        """Why a request sent now would be refused, or None."""
        try:
            self._usable_card()
        except InferenceServiceError as error:
            return str(error)
        return None

    def card(self) -> EngineCard | None:
        """The card of the engine that a request sent now goes to; None for a plain one, or none."""
        try:
            return self._usable_card()
        except InferenceServiceError:
            return None

    def infer(
        self,
        batch: Batch,
        *,
        prompt: str | None,
        obs_stamp_ns: int,
        timeout_s: float,
        context: InferenceContext = NO_CONTEXT,
    ) -> EngineAnswer:
        """Send a batch, wait for its reply. ``context.session`` empty: that of this client. A plain engine is told
        nothing of the context.

        Raises:
            EngineUnavailable: no engine, not READY, or lost while waiting.
            PolicyMismatch: the engine holds another policy.
            RequestTimeout: no reply within ``timeout_s``.
            InferenceServiceError: whatever error the engine answered.
        """
        card = self._usable_card()
        started = time.monotonic()
        request = self._request(batch, prompt, obs_stamp_ns, timeout_s, context)
        pending = _Pending(card.engine_id if card else "", request.session)
        ring = self._memory.ring(card)
        with self._lock:
            self._pending[request.request_id] = pending
        try:
            self._publisher.publish(self._encode(request, card, ring))
            if not pending.done.wait(max(0.0, started + timeout_s - time.monotonic())):
                raise RequestTimeout(f"no reply from the engine within {timeout_s:g} s")
        finally:
            with self._lock:
                del self._pending[request.request_id]
        if pending.reply is None:
            raise EngineUnavailable(pending.lost)
        try:
            return self._answer(pending.reply, (time.monotonic() - started) * 1e3)
        except MalformedMessage as error:
            if ring is not None:
                self._memory.give_up(error)
            raise

    def _encode(self, request: Request, card: EngineCard | None, ring: SharedRing | None) -> Message:
        codecs = self.encodings.choose(request.batch, card.codecs) if card else {}
        try:
            return encode_request(request, extended=card is not None, codecs=codecs, ring=ring)
        except OSError as error:
            self._memory.give_up(error)
            return encode_request(request, extended=card is not None, codecs=codecs)

    def close(self) -> None:
        """Give the shared memory back; the node owns the endpoints."""
        self._memory.close()

    def _answer(self, reply: Reply, round_trip_ms: float) -> EngineAnswer:
        if reply.status != "ok":
            raise error_from_wire(reply.status, reply.message)
        if reply.action is None:
            raise MalformedMessage("the engine's reply holds no action")
        return EngineAnswer(reply.action, dict(reply.timing_ms), round_trip_ms)

    def _request(
        self, batch: Batch, prompt: str | None, obs_stamp_ns: int, timeout_s: float, context: InferenceContext
    ) -> Request:
        session = context.session or self._session
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
            self._sessions.add(session)
        return Request(
            request_id=uuid.uuid4().hex,
            batch=batch,
            device_id=self._device_id,
            session=session,
            sequence=sequence,
            deadline_ms=timeout_s * 1e3,
            obs_stamp_ns=obs_stamp_ns,
            fingerprint=self._handshake.fingerprint,
            prompt=prompt,
            seed=context.seed,
            left_over=context.left_over,
            earlier=context.earlier,
        )

    def _usable_card(self) -> EngineCard | None:
        """The card of a READY engine with our policy, or None where only a plain engine can be there."""
        with self._lock:
            heard = list(self._cards.values())
            seen = self._card_seen
        if not seen:
            self._require_plain_engine()
            return None
        if not heard:
            raise EngineUnavailable("the engine is lost: its card is silent")
        ready = [one for one in heard if one.card.state is EngineState.READY]
        if not ready:
            states = ", ".join(f"{h.card.engine_id} is {h.card.state.name} {h.card.message}".strip() for h in heard)
            raise EngineUnavailable(f"no engine is READY: {states}")
        for one in ready:
            if one.mismatch is None:
                return one.card
        raise PolicyMismatch("\n".join(one.mismatch for one in ready if one.mismatch))

    def _require_plain_engine(self) -> None:
        """A plain engine is one that subscribes our batches and shows no sign of a card for a while."""
        if not self._publisher.matched:
            raise EngineUnavailable(f"no engine subscribes {self._publisher.topic}: start pure_inference")
        since = self._matched_since
        if self._card_reader.matched or since is None or time.monotonic() - since < CARD_GRACE_S:
            raise EngineUnavailable("an engine is there, waiting for its card")

    def _on_card(self, message: Message) -> None:
        if message.name != CARD_NAME:
            return
        try:
            card = card_from_status(message)
        except MalformedMessage as error:
            self._drop("malformed_card", f"Malformed engine card dropped: {error}")
            return
        if card.wire != WIRE_VERSION:
            self.dropped["card_version"] += 1
            return
        heard = _Heard(card, time.monotonic(), self._handshake.problem(card))
        with self._lock:
            self._card_seen = True
            self._cards[card.engine_id] = heard
        self._watch()

    def _watch(self) -> None:
        """Forget silent engines, wake who waits for one that is lost, tell of every change."""
        now = time.monotonic()
        self._matched_since = (self._matched_since or now) if self._publisher.matched else None
        with self._lock:
            self._cards = {key: one for key, one in self._cards.items() if now - one.at_s < CARD_LOST_S}
            orphans = [p for p in self._pending.values() if p.engine_id and p.engine_id not in self._cards]
        for pending in orphans:
            pending.lost = "the engine was lost while it worked on the request"
            pending.done.set()
        problem = self.problem()
        if problem == self._problem:
            return
        before, self._problem = self._problem, problem
        if problem:
            self._logger.warning("Engine not usable: %s", problem)
        elif before is not None:
            self._logger.info("Engine ready")
        self._on_change()

    def _drop(self, kind: str, why: str) -> None:
        """Count it, and tell of it unless one of its kind was told of a moment ago."""
        self.dropped[kind] += 1
        now = time.monotonic()
        if now >= self._quiet_until.get(kind, 0.0):
            self._quiet_until[kind] = now + QUIET_S
            self._logger.warning("%s", why)

    def _on_reply(self, message: Message) -> None:
        try:
            reply = decode_reply(message)
        except MalformedMessage as error:
            self._drop("malformed", f"Malformed reply dropped: {error}")
            return
        with self._lock:
            pending = self._pending.get(reply.request_id)
            mine = pending is not None and pending.is_answered_by(reply)
            if pending is not None and mine and not pending.done.is_set():
                pending.reply = reply
                pending.done.set()
                return
            foreign = (pending is not None and not mine) or (
                bool(reply.session) and reply.session not in self._sessions
            )
        self.dropped["foreign" if foreign else "late_or_duplicate"] += 1
