"""Requests and replies as VariantsLists, in IB-Robot's plain form and in our extended one (docs: WIRE).

The plain form is what an unmodified IB-Robot node speaks: tensors as floats, ``task.request_id``, perhaps
``task``; back come ``action`` and ``action.request_id`` and nothing else. The extended form adds keys, and only
to a peer whose engine card says that it understands them, for a plain engine fails on lists of strings that it
does not know. Time travels as durations: no clock of one machine is compared with another's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import Batch, Float32
from inference_service.core.errors import MalformedMessage, NonFiniteAction, ProtocolError
from inference_service.core.policy import InferenceContext, LeftOver
from inference_service.wire.card import (
    CARD_NAME,
    WIRE_VERSION,
    EngineCard,
    EngineState,
    card_from_status,
    card_to_status,
)
from inference_service.wire.context import decode_context, encode_context
from inference_service.wire.earlier import earlier_keys, is_earlier, take_earlier
from inference_service.wire.encodings import (
    SUPPORTED_CODECS,
    Codec,
    Encoding,
    decode,
    encode,
    parse_encodings,
)
from inference_service.wire.fields import numbers, one_integer, one_string
from inference_service.wire.shared_memory import SharedReader, SharedRing
from inference_service.wire.variants import DEFAULT_BOUNDS, Bounds, Entry, from_variants, to_variants

__all__ = [
    "CARD_NAME",
    "OK",
    "SUPPORTED_CODECS",
    "TIMING_STAGES",
    "WIRE_VERSION",
    "EngineCard",
    "EngineState",
    "Reply",
    "Request",
    "card_from_status",
    "card_to_status",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
    "request_address",
]

OK = "ok"
"""``action.status`` of a reply that holds an action; any other is a ``wire_name`` of the error tree."""
TIMING_STAGES = ("queue", "decode", "inference", "encode")
"""Order of the numbers in ``action.timing_ms``."""
_PROMPT = "task"


@dataclass(frozen=True, eq=False)
class Request:
    """A batch on its way to an engine.

    ``batch`` holds arrays with their batch axis, affine images, and lists of strings. ``prompt`` travels as
    ``task`` (where the batch has a ``task`` of its own, that one does) and arrives as both.
    ``deadline_ms`` is the time that was left when the request was sent, ``obs_stamp_ns`` the observation's
    stamp on the device's clock. ``seed`` (0 to 2**63 - 1) is the noise's, ``left_over`` what the robot still has to
    execute of the chunk before (see :class:`~inference_service.core.policy.LeftOver`), in an array of its own.
    ``earlier``: observations of the control ticks before, oldest first (see
    :class:`~inference_service.core.policy.InferenceContext`), encoded as the batch is.
    All fields from ``device_id`` on exist in the extended form only, ``prompt`` apart.
    """

    request_id: str
    batch: Batch
    device_id: str = ""
    session: str = ""
    sequence: int = 0
    deadline_ms: float | None = None
    obs_stamp_ns: int = 0
    fingerprint: str = ""
    prompt: str | None = None
    seed: int | None = None
    left_over: LeftOver | None = None
    earlier: tuple[Batch, ...] | None = None

    @property
    def extended(self) -> bool:
        """Whether it came in the extended form, and so may be answered in it."""
        return bool(self.session)

    @property
    def context(self) -> InferenceContext:
        """What a policy is told beside the batch."""
        return InferenceContext(self.session, self.seed, self.left_over, self.obs_stamp_ns or None, self.earlier)


@dataclass(frozen=True, eq=False)
class Reply:
    """An engine's answer: ``action`` float32 (chunk, action_dim), normalised, or an error's name and message."""

    request_id: str
    action: Float32 | None = None
    status: str = OK
    message: str = ""
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    device_id: str = ""
    session: str = ""
    engine_id: str = ""

    @property
    def extended(self) -> bool:
        return bool(self.session)

    def addressed(self, device_id: str, session: str, engine_id: str) -> Reply:
        """The same reply, to a session of a device, from an engine."""
        return replace(self, device_id=device_id, session=session, engine_id=engine_id)


def encode_request(
    request: Request, *, extended: bool, codecs: Mapping[str, str] | None = None, ring: SharedRing | None = None
) -> Any:
    """The request as a VariantsList.

    Args:
        request: to the extended form belong ``device_id`` and ``session``, which must not be empty then.
        extended: whether the engine's card was seen. If not, affine images are turned into float32.
        codecs: codec by key, as :meth:`Codec.parse` reads it; other tensors travel plain. Extended form only.
        ring: memory that the engine sees too, for the large payloads. Extended form only.

    Raises:
        MalformedMessage: something that cannot travel, or is outside the default bounds; it is named.
        OSError: the ring's directory is full or gone; encode without it.
    """
    if not extended:
        return _encode_plain(request)
    if not request.device_id or not request.session:
        raise MalformedMessage("an extended request wants a device_id and a session")
    encodings: list[Encoding] = []
    chosen = {key: Codec.parse(text) for key, text in (codecs or {}).items()}
    entries = _tensors(request, {key: chosen.get(key, Codec()) for key in request.batch}, encodings)
    for wire_key, key, value in earlier_keys(request.earlier or ()):
        entries[wire_key], encoding = encode(wire_key, value, chosen.get(key, Codec()))
        encodings += [encoding] if encoding else []
    if ring is not None:
        entries, shared = ring.put(entries)
        entries.update({"task.shared": shared} if shared else {})
    entries.update(_prompt(request))
    entries.update(
        {
            "task.request_id": [request.request_id],
            "task.device_id": [request.device_id],
            "task.session": [request.session],
            "task.sequence": np.array([request.sequence], np.int64),
            "task.obs_stamp_ns": np.array([request.obs_stamp_ns], np.int64),
            "task.fingerprint": [request.fingerprint],
        }
    )
    if request.deadline_ms is not None:
        entries["task.deadline_ms"] = np.array([request.deadline_ms], np.float64)
    entries.update(encode_context(request.seed, request.left_over, request.earlier))
    if encodings:
        entries["task.encoding"] = [encoding.to_json() for encoding in encodings]
    return to_variants(entries)


def _encode_plain(request: Request) -> Any:
    entries = _tensors(request, {}, [])
    for key, entry in entries.items():
        if isinstance(entry, list):
            raise MalformedMessage(f"{key!r}: a plain engine fails on lists of strings other than 'task'")
        if entry.dtype == np.bool_ and entry.ndim == 2 and len(entry) == 1:
            # A prompt's mask: the plain form's bool array has one axis, so that of the batch is left out.
            entries[key] = entry[0]
    return to_variants({**entries, **_prompt(request), "task.request_id": [request.request_id]})


def _tensors(request: Request, codecs: Mapping[str, Codec], encodings: list[Encoding]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key, value in request.batch.items():
        if key == _PROMPT:
            continue
        if key.startswith("task."):
            raise MalformedMessage(f"{key!r}: a tensor's key must not begin with 'task.', which is the envelope's")
        entries[key], encoding = encode(key, value, codecs.get(key))
        if encoding is not None:
            encodings.append(encoding)
    return entries


def _prompt(request: Request) -> dict[str, Entry]:
    own = request.batch.get(_PROMPT)
    if own is None:
        return {_PROMPT: [request.prompt]} if request.prompt else {}
    if not isinstance(own, list):
        raise MalformedMessage(f"'task' of a batch is a list of strings, not {type(own).__name__}")
    return {_PROMPT: own}


def decode_request(message: Any, bounds: Bounds = DEFAULT_BOUNDS, shared: SharedReader | None = None) -> Request:
    """The request in a VariantsList, plain or extended; arrays and ``u8`` pixels are views into the message.

    Keys of ``task.`` that this version does not know are passed over. ``shared``: where payloads may be that the
    message only points to; those are copied out.

    Raises:
        MalformedMessage: outside ``bounds``, or a value that is missing or garbled; it is named. To answer even
            then, see :func:`request_address`.
    """
    entries = from_variants(message, bounds)
    envelope = {key: entries.pop(key) for key in list(entries) if key.startswith("task.") and not is_earlier(key)}
    prompts = entries.pop(_PROMPT, [])
    if "task.shared" in envelope:
        entries.update(_shared(envelope["task.shared"], entries, bounds, shared))
    batch = _decode_batch(entries, envelope.get("task.encoding", []), bounds)
    earlier = take_earlier(batch, envelope)
    prompt: str | None = None
    if not isinstance(prompts, list):
        raise MalformedMessage("'task' is no list of strings")
    if prompts:
        batch[_PROMPT] = prompts
        prompt = prompts[0]
    request_id = one_string(envelope, "task.request_id")
    if "task.session" not in envelope and "task.device_id" not in envelope:
        return Request(request_id, {key: _with_batch_axis(entry) for key, entry in batch.items()}, prompt=prompt)
    seed, left_over = decode_context(envelope)
    return Request(
        request_id,
        batch,
        device_id=one_string(envelope, "task.device_id"),
        session=one_string(envelope, "task.session"),
        sequence=one_integer(envelope, "task.sequence"),
        deadline_ms=numbers(envelope, "task.deadline_ms", 1)[0] if "task.deadline_ms" in envelope else None,
        obs_stamp_ns=one_integer(envelope, "task.obs_stamp_ns"),
        fingerprint=one_string(envelope, "task.fingerprint", empty=True),
        prompt=prompt,
        seed=seed,
        left_over=left_over,
        earlier=earlier,
    )


def _with_batch_axis(entry: Any) -> Any:
    """A plain bool array lost its axes on the way; every tensor of a request has a batch axis."""
    is_flat = isinstance(entry, np.ndarray) and entry.dtype == np.bool_ and entry.ndim == 1
    return entry[None] if is_flat else entry


def _decode_batch(entries: dict[str, Entry], objects: Entry, bounds: Bounds) -> Batch:
    if not isinstance(objects, list):
        raise MalformedMessage("'task.encoding' is no list of strings")
    batch: Batch = dict(entries)
    for encoding in parse_encodings(objects, bounds):
        if encoding.key not in entries:
            raise MalformedMessage(f"task.encoding: {encoding.key!r} is not in the message")
        batch[encoding.key] = decode(encoding, entries[encoding.key])
    return batch


def _shared(
    objects: Entry, entries: Mapping[str, Entry], bounds: Bounds, reader: SharedReader | None
) -> dict[str, NDArray[Any]]:
    if reader is None:
        raise MalformedMessage("'task.shared' points to memory that this engine does not share")
    if not isinstance(objects, list):
        raise MalformedMessage("'task.shared' is no list of strings")
    tensors = reader.take(objects, bounds)
    absent = sorted(set(tensors) - set(entries))
    if absent:
        raise MalformedMessage(f"task.shared: {', '.join(absent)[:80]} is not in the message")
    return tensors


def request_address(message: Any) -> Reply | None:
    """An empty reply to whoever sent ``message``, for a request that :func:`decode_request` refused.

    None where its own id cannot be read, or where it came in the plain form, which knows no errors.
    """
    found: dict[str, Entry] = {}
    for variant in message.variants[: DEFAULT_BOUNDS.variants]:
        if variant.key in ("task.request_id", "task.device_id", "task.session"):
            found[variant.key] = list(variant.string_array)
    try:
        request_id, device_id, session = (
            one_string(found, key) for key in ("task.request_id", "task.device_id", "task.session")
        )
    except MalformedMessage:
        return None
    return Reply(request_id, device_id=device_id, session=session)


def encode_reply(reply: Reply, *, extended: bool) -> Any:
    """The reply as a VariantsList; ``extended`` as the request was.

    Raises:
        ProtocolError: an error in the plain form, which knows none: a plain device waits for its time-out.
        MalformedMessage: something that cannot travel; it is named.
    """
    if (reply.status == OK) != (reply.action is not None):
        raise MalformedMessage(f"a reply of status {reply.status!r} with{'out' if reply.action is None else ''} action")
    if not extended:
        if reply.action is None:
            raise ProtocolError(f"the plain form has no word for {reply.status!r}: leave the request unanswered")
        return to_variants({"action": _chunk(reply.action), "action.request_id": [reply.request_id]})
    entries: dict[str, Entry] = {} if reply.action is None else {"action": _chunk(reply.action)}
    entries.update(
        {
            "action.request_id": [reply.request_id],
            "action.device_id": [reply.device_id],
            "action.session": [reply.session],
            "action.engine_id": [reply.engine_id],
            "action.status": [reply.status],
            "action.message": [reply.message[: DEFAULT_BOUNDS.string_length]],
        }
    )
    if reply.timing_ms:
        entries["action.timing_ms"] = _timing(reply.timing_ms)
    return to_variants(entries)


def _timing(timing_ms: Mapping[str, float]) -> NDArray[np.float64]:
    unknown = set(timing_ms) - set(TIMING_STAGES)
    if unknown:
        raise MalformedMessage(f"unknown timing stages {sorted(unknown)}: known are {', '.join(TIMING_STAGES)}")
    return np.array([timing_ms.get(stage, 0.0) for stage in TIMING_STAGES], np.float64)


def decode_reply(message: Any, bounds: Bounds = DEFAULT_BOUNDS) -> Reply:
    """The reply in a VariantsList, plain or extended.

    An action that is not finite becomes the error ``non_finite_action``, so that the device learns at once which
    of its requests it was.

    Raises:
        MalformedMessage: outside ``bounds``, or a value that is missing, garbled or contradicts another.
    """
    entries = from_variants(message, bounds)
    action = entries.get("action")
    reply = Reply(one_string(entries, "action.request_id"), None if action is None else _chunk(action))
    if "action.session" in entries or "action.status" in entries:
        reply = _extended_reply(reply, entries)
    elif set(entries) != {"action", "action.request_id"}:
        raise MalformedMessage(f"a plain reply has 'action' and 'action.request_id' alone, this one {sorted(entries)}")
    if reply.action is not None and not np.isfinite(reply.action).all():
        return replace(
            reply, action=None, status=NonFiniteAction.wire_name, message="the engine's action holds NaN or infinity"
        )
    return reply


def _extended_reply(reply: Reply, entries: Mapping[str, Entry]) -> Reply:
    status = one_string(entries, "action.status")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", status):
        raise MalformedMessage(f"'action.status' is {status!r}")
    if (status == OK) != (reply.action is not None):
        raise MalformedMessage(f"a reply of status {status!r} with{'out' if reply.action is None else ''} action")
    timing = numbers(entries, "action.timing_ms", len(TIMING_STAGES)) if "action.timing_ms" in entries else []
    return replace(
        reply,
        status=status,
        message=one_string(entries, "action.message", empty=True, length=DEFAULT_BOUNDS.string_length),
        timing_ms=dict(zip(TIMING_STAGES, timing, strict=False)),
        device_id=one_string(entries, "action.device_id"),
        session=one_string(entries, "action.session"),
        engine_id=one_string(entries, "action.engine_id"),
    )


def _chunk(action: Entry) -> Float32:
    if not isinstance(action, np.ndarray) or action.dtype != np.float32 or action.ndim != 2 or not action.size:
        what = f"{action.dtype} {action.shape}" if isinstance(action, np.ndarray) else "a list of strings"
        raise MalformedMessage(f"'action' is {what}, not float32 (chunk, action_dim)")
    return action
