"""The options of backend ``lerobot``, beside the device and the number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from inference_service.backends.lerobot_history import DEFAULT_GAP_S, DEFAULT_SESSIONS
from inference_service.backends.options import check_extra
from inference_service.core.errors import BackendError

PRECISIONS = ("float32", "bfloat16", "float16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SCHEDULES = ("LINEAR", "EXP", "ONES", "ZEROS")


@dataclass(frozen=True)
class LeRobotOptions:
    """==========================  =============================================================================
    ``seed``                    of the noise that a flow or diffusion policy starts from, where a request has none;
                                the same for every request, so that equal batches give equal chunks
    ``strict``                  refuse weights that lack a parameter or hold a foreign one
    ``max_batch``               robots in one pass; 1 switches batching off
    ``autocast``                ``bfloat16`` or ``float16``: torch's mixed precision, on CPU or CUDA, whatever
                                ``use_amp`` in config.json says; ``float32``: none
    ``dtype``                   ``float32`` or ``bfloat16``, for families whose configuration has it (pi0, xvla):
                                the precision of the weights instead of the one in config.json
    ``compile``                 a mode of ``torch.compile``; the first passes take minutes
    ``sessions``                histories that are kept at once, for families that look back
    ``history_gap_s``           after such a pause a history begins anew
    ``rtc_schedule``            LINEAR, EXP, ONES or ZEROS: how real-time chunking lets go of the chunk before
    ``rtc_max_guidance_weight``  bound of its correction; both instead of ``rtc_config`` in config.json
    ==========================  =============================================================================
    """

    seed: int = 0
    strict: bool = True
    max_batch: int = 8
    autocast: str | None = None
    dtype: str | None = None
    compile: str | None = None
    sessions: int = DEFAULT_SESSIONS
    history_gap_s: float = DEFAULT_GAP_S
    rtc_schedule: str | None = None
    rtc_max_guidance_weight: float | None = None


_CHOICES = {
    "autocast": PRECISIONS,
    "dtype": ("float32", "bfloat16"),
    "compile": COMPILE_MODES,
    "rtc_schedule": SCHEDULES,
}
_POSITIVE = ("max_batch", "sessions", "history_gap_s", "rtc_max_guidance_weight")
_WORDS = {int: "an integer", bool: "true or false", float: "a number"}


def parse_options(extra: Mapping[str, Any]) -> LeRobotOptions:
    """The options as a robot file or a caller gives them.

    Raises:
        BackendError: an unknown option, or a value that is none; named, with what is known.
    """
    check_extra("lerobot", extra, {field.name for field in fields(LeRobotOptions)})
    return LeRobotOptions(**{key: _value(key, value) for key, value in extra.items()})


def _value(key: str, value: Any) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise BackendError(f"backend 'lerobot': option '{key}' is {value!r:.60}, known: {', '.join(_CHOICES[key])}")
        return value
    kind: type = bool if key == "strict" else float if key.endswith(("_s", "_weight")) else int
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise BackendError(f"backend 'lerobot': option '{key}' must be {_WORDS[kind]}, found {value!r:.60}")
    if key in _POSITIVE and value <= 0:  # type: ignore[operator]  # a number by now
        raise BackendError(f"backend 'lerobot': option '{key}' must be positive, found {value}")
    return value
