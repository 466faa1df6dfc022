"""Parameters of the dispatcher that can be set while it runs, and how they reach the control thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inference_service.dispatch.config import DispatcherConfig
from inference_service.nodes.parameter_services import Changeable

DEVICE_MARGIN_S = 0.5
"""The device answers a request it gave up with a reason; a little patience lets that answer come."""
_FIELDS = {
    "queue_size": "queue_size",
    "watermark_threshold": "watermark",
    "control_frequency": "control_hz",
    "temporal_smoothing_enabled": "smoothing",
    "temporal_ensemble_coeff": "ensemble_coeff",
}


def changeable(
    config: Callable[[], DispatcherConfig], apply: Callable[[DispatcherConfig], None]
) -> dict[str, Changeable]:
    """By parameter name. ``apply`` puts a configuration in force and raises ValueError where it cannot work."""

    def of(field: str) -> Changeable:
        def set_field(value: Any) -> None:
            apply(replace(config(), **{field: value}))

        return Changeable(lambda: getattr(config(), field), set_field)

    def set_timeout(seconds: float) -> None:
        apply(replace(config(), request_timeout_s=seconds + DEVICE_MARGIN_S))

    timeout = Changeable(lambda: round(config().request_timeout_s - DEVICE_MARGIN_S, 9), set_timeout)
    return {**{name: of(field) for name, field in _FIELDS.items()}, "request_timeout": timeout}


class Order:
    """Something that another thread is asked to do, once, unless the one who asked has given up waiting."""

    def __init__(self, change: Callable[[], None]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._withdrawn = False
        self._done = threading.Event()
        self._refusal: ValueError | None = None

    def __call__(self) -> None:
        """Do it; on the thread that was asked."""
        with self._lock:
            if self._withdrawn:
                return
            try:
                self._change()
            except ValueError as error:
                self._refusal = error
            self._done.set()

    def wait(self, seconds: float) -> None:
        """Raises ValueError: what the change itself raised, or that it was not taken up in time."""
        if not self._done.wait(seconds):
            with self._lock:
                if not self._done.is_set():
                    self._withdrawn = True
                    raise ValueError(f"the control tick has not taken it up within {seconds:g} s")
        if self._refusal is not None:
            raise self._refusal
