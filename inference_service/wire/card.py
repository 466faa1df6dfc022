"""The engine's card: a ``diagnostic_msgs/msg/DiagnosticStatus`` that says what an engine is and can do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from inference_service.core.errors import MalformedMessage
from inference_service.wire.encodings import SUPPORTED_CODECS
from inference_service.wire.interfaces import get_message

WIRE_VERSION = 1
"""Version of the extended form that is spoken here."""
CARD_NAME = "pure_inference"
"""Name of every engine's status, whatever its node is called."""
_MAX_VALUES = 64
_MAX_VALUE_LENGTH = 1 << 16
_MAX_FEATURES = 64
_MAX_RANK = 8

Parsed = TypeVar("Parsed")


class EngineState(Enum):
    """An engine serves requests in READY alone."""

    LOADING = "LOADING"
    WARMING_UP = "WARMING_UP"
    READY = "READY"
    DRAINING = "DRAINING"
    FAULT = "FAULT"


# diagnostic_msgs/msg/DiagnosticStatus: OK, WARN, ERROR.
_LEVELS = {EngineState.READY: 0, EngineState.FAULT: 2}
_OTHER_LEVEL = 1


@dataclass(frozen=True)
class EngineCard:
    """What an engine says of itself.

    ``input_features`` and ``output_features`` map a feature to its shape without the batch axis, in the policy's
    order; ``feature_types`` to its type (``VISUAL``, ``STATE``…). ``message`` is the reason of a FAULT, empty
    otherwise. ``fps`` is None where the policy does not say at what rate it was trained; ``image_size``
    (height, width) is one in which images may come too. ``n_obs_steps`` to ``versions`` as in
    :class:`~inference_service.core.policy.PolicySpec`. ``shared_memory`` is the token of a
    :class:`~inference_service.wire.shared_memory.Beacon`. Before the model is loaded, what is not known yet is empty,
    zero or the default; so is what an engine of an earlier version does not say.
    """

    engine_id: str
    state: EngineState
    wire: int = WIRE_VERSION
    message: str = ""
    policy_type: str = ""
    backend_type: str = ""
    device: str = ""
    chunk_size: int = 0
    action_dim: int = 0
    input_features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fingerprint: str = ""
    codecs: tuple[str, ...] = SUPPORTED_CODECS
    queue_depth: int = 0
    version: str = ""
    output_features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    feature_types: Mapping[str, str] = field(default_factory=dict)
    n_obs_steps: int = 1
    earlier_observations: int = 0
    supports_rtc: bool = False
    max_batch: int = 1
    image_size: tuple[int, int] | None = None
    fps: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    shared_memory: str = ""


def card_to_status(card: EngineCard) -> Any:
    """The card as a DiagnosticStatus: level by state, ``hardware_id`` the device, values of WIRE.md."""
    values = {
        "wire": str(card.wire),
        "engine_id": card.engine_id,
        "state": card.state.name,
        "policy_type": card.policy_type,
        "backend_type": card.backend_type,
        "device": card.device,
        "chunk_size": str(card.chunk_size),
        "action_dim": str(card.action_dim),
        "input_features": _shapes_to_json(card.input_features),
        "fingerprint": card.fingerprint,
        "codecs": ",".join(card.codecs),
        "queue_depth": str(card.queue_depth),
        "version": card.version,
        "output_features": _shapes_to_json(card.output_features),
        "feature_types": json.dumps(dict(card.feature_types)),
        "n_obs_steps": str(card.n_obs_steps),
        "earlier_observations": str(card.earlier_observations),
        "supports_rtc": "true" if card.supports_rtc else "false",
        "max_batch": str(card.max_batch),
        "image_size": "" if card.image_size is None else "{}x{}".format(*card.image_size),
        "fps": "" if card.fps is None else repr(card.fps),
        "versions": json.dumps(dict(card.versions)),
        "shared_memory": card.shared_memory,
    }
    key_value = get_message("diagnostic_msgs/msg/KeyValue")
    return get_message("diagnostic_msgs/msg/DiagnosticStatus")(
        level=_LEVELS.get(card.state, _OTHER_LEVEL),
        name=CARD_NAME,
        message=card.message or card.state.name,
        hardware_id=card.device,
        values=[key_value(key=key, value=value) for key, value in values.items()],
    )


def card_from_status(status: Any) -> EngineCard:
    """The card in a DiagnosticStatus; values that this version does not know are passed over.

    ``wire`` is not compared here: a card of another version is read as far as it follows this one.

    Raises:
        MalformedMessage: no engine's status, or a value that is missing or garbled; it is named.
    """
    if status.name != CARD_NAME:
        raise MalformedMessage(f"status of {status.name[:64]!r} is no engine's card, whose name is {CARD_NAME!r}")
    values = _values(status)
    card = EngineCard(
        wire=_read(values, "wire", _positive),
        engine_id=_read(values, "engine_id", _filled),
        state=_read(values, "state", lambda text: EngineState[text]),
        message="" if status.message == values["state"] else status.message[:_MAX_VALUE_LENGTH],
        policy_type=_read(values, "policy_type", str),
        backend_type=_read(values, "backend_type", str),
        device=_read(values, "device", str),
        chunk_size=_read(values, "chunk_size", _count),
        action_dim=_read(values, "action_dim", _count),
        input_features=_read(values, "input_features", _features),
        fingerprint=_read(values, "fingerprint", str),
        codecs=_read(values, "codecs", _names),
        queue_depth=_read(values, "queue_depth", _count),
        version=_read(values, "version", str),
        output_features=_read(values, "output_features", _features, "{}"),
        feature_types=_read(values, "feature_types", _texts, "{}"),
        n_obs_steps=_read(values, "n_obs_steps", _positive, "1"),
        earlier_observations=_read(values, "earlier_observations", _count, "0"),
        supports_rtc=_read(values, "supports_rtc", _flag, "false"),
        max_batch=_read(values, "max_batch", _positive, "1"),
        image_size=_read(values, "image_size", _size, ""),
        fps=_read(values, "fps", _rate, ""),
        versions=_read(values, "versions", _texts, "{}"),
        shared_memory=_read(values, "shared_memory", str, ""),
    )
    _check_ready(card)
    return card


def _values(status: Any) -> dict[str, str]:
    if len(status.values) > _MAX_VALUES:
        raise MalformedMessage(f"engine card of {len(status.values)} values, at most {_MAX_VALUES} are allowed")
    values: dict[str, str] = {}
    for item in status.values:
        if item.key in values:
            raise MalformedMessage(f"engine card: {item.key[:64]!r} is there twice")
        if len(item.value) > _MAX_VALUE_LENGTH:
            raise MalformedMessage(f"engine card: {item.key[:64]!r} has {len(item.value)} characters")
        values[item.key] = item.value
    return values


def _read(values: Mapping[str, str], key: str, parse: Callable[[str], Parsed], default: str | None = None) -> Parsed:
    """``default`` stands for what an engine of an earlier version does not say."""
    text = values.get(key, default)
    if text is None:
        raise MalformedMessage(f"engine card: {key!r} is missing")
    try:
        return parse(text)
    except (ValueError, KeyError, RecursionError) as error:
        raise MalformedMessage(f"engine card: {key!r} is garbled: {text[:64]!r}") from error


def _check_ready(card: EngineCard) -> None:
    """An engine that offers to serve has to say what."""
    if card.state is not EngineState.READY:
        return
    for key in ("policy_type", "chunk_size", "action_dim", "input_features", "fingerprint"):
        if not getattr(card, key):
            raise MalformedMessage(f"engine card: {key!r} is empty though the engine is READY")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise ValueError(text)
    return number


def _filled(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, width = map(_positive, text.split("x"))
    return height, width


def _rate(text: str) -> float | None:
    if not text:
        return None
    rate = float(text)
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(text)
    return rate


def _texts(text: str) -> dict[str, str]:
    texts = json.loads(text)
    if not isinstance(texts, dict) or len(texts) > _MAX_FEATURES:
        raise ValueError(text)
    if not all(isinstance(value, str) for value in texts.values()):
        raise ValueError(text)
    return texts


def _shapes_to_json(features: Mapping[str, tuple[int, ...]]) -> str:
    return json.dumps({name: list(shape) for name, shape in features.items()})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _features(text: str) -> dict[str, tuple[int, ...]]:
    features = json.loads(text)
    if not isinstance(features, dict) or len(features) > _MAX_FEATURES:
        raise ValueError(text)
    for shape in features.values():
        if not isinstance(shape, list) or len(shape) > _MAX_RANK:
            raise ValueError(text)
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(text)
    return {name: tuple(shape) for name, shape in features.items()}
