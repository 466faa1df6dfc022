"""What a request carries for the policy beside its tensors: a seed, the rest of the chunk before (RTC), and how many
observations of the control ticks before are with it (:mod:`.earlier`).

===========================  =======  =======================================
key                          dtype    shape and range
===========================  =======  =======================================
``task.seed``                int64    (1,), 0 to 2**63 - 1
``task.rtc.left_over``       float32  (steps, action_dim), finite, normalised
``task.rtc.delay``           int64    (1,), steps, 0 to 100,000
``task.rtc.horizon``         int64    (1,), steps, 0 to 100,000
``task.earlier``             int64    (1,), 0 to 63
===========================  =======  =======================================

Those of ``task.rtc`` come together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inference_service.core.batch import Batch, Float32
from inference_service.core.errors import MalformedMessage
from inference_service.core.policy import LeftOver
from inference_service.wire.earlier import encode_count
from inference_service.wire.fields import bounded, checked, present
from inference_service.wire.variants import Entry

_SEED = "task.seed"
_LEFT_OVER, _DELAY, _HORIZON = "task.rtc.left_over", "task.rtc.delay", "task.rtc.horizon"
_MAX_STEPS = 100_000
_MAX_SEED = 2**63 - 1


def encode_context(seed: int | None, left: LeftOver | None, earlier: Sequence[Batch] | None = None) -> dict[str, Entry]:
    """The entries that carry all of it but the earlier observations' tensors. Raises MalformedMessage for what makes
    no sense."""
    entries: dict[str, Entry] = encode_count(earlier)
    if seed is not None:
        entries[_SEED] = np.array([checked(_SEED, seed, _MAX_SEED)], np.int64)
    if left is not None:
        entries[_LEFT_OVER] = _check_left_over(left.actions)
        entries[_DELAY] = np.array([checked(_DELAY, left.inference_delay, _MAX_STEPS)], np.int64)
        entries[_HORIZON] = np.array([checked(_HORIZON, left.execution_horizon, _MAX_STEPS)], np.int64)
    return entries


def decode_context(envelope: Mapping[str, Entry]) -> tuple[int | None, LeftOver | None]:
    """Seed and left-over among an envelope's entries. Raises MalformedMessage, naming what is garbled or lacking."""
    return bounded(envelope, _SEED, _MAX_SEED) if _SEED in envelope else None, _left_over(envelope)


def _left_over(envelope: Mapping[str, Entry]) -> LeftOver | None:
    if not any(key in envelope for key in (_LEFT_OVER, _DELAY, _HORIZON)):
        return None
    actions = _check_left_over(present(envelope, _LEFT_OVER))
    return LeftOver(actions, bounded(envelope, _DELAY, _MAX_STEPS), bounded(envelope, _HORIZON, _MAX_STEPS))


def _check_left_over(actions: Entry) -> Float32:
    if not isinstance(actions, np.ndarray) or actions.dtype != np.float32 or actions.ndim != 2 or not actions.size:
        what = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else "a list of strings"
        raise MalformedMessage(f"{_LEFT_OVER!r} is {what}, not float32 (steps, action_dim)")
    if len(actions) > _MAX_STEPS:
        raise MalformedMessage(f"{_LEFT_OVER!r} has {len(actions)} steps, at most {_MAX_STEPS} are allowed")
    if not np.isfinite(actions).all():
        raise MalformedMessage(f"{_LEFT_OVER!r} holds NaN or infinity")
    return actions
