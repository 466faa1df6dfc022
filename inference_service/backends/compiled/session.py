"""What a vendor's runtime offers to the facade: described tensors in, described tensors out.

A session knows artifacts, loading, execution and clean-up; it knows nothing of policies. What the tensors
mean is an adapter's business (:mod:`.adapters`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from inference_service.core.batch import Float32

Layout = Literal["NCHW", "NHWC", "plain"]
Guide = Callable[[Float32, Float32, float], Float32]
"""The velocity to take in place of ``velocity`` at ``x_t`` and ``time``; :class:`~inference_service.core.rtc.Guidance`
is one."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the runtime wants it.

    ``shape`` has its batch axis and is in ``layout``: (1, 3, H, W) for ``NCHW``, (1, H, W, 3) for ``NHWC``;
    ``plain`` is everything that is no image.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: Layout = "plain"

    @property
    def nbytes(self) -> int:
        """Bytes of one tensor in C order."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        layout = "" if self.layout == "plain" else f" {self.layout}"
        return f"{self.name} {self.dtype.name} {list(self.shape)}{layout}"


@runtime_checkable
class RuntimeSession(Protocol):
    """A loaded model. Any thread may call, one at a time.

    Constructors raise :class:`~inference_service.core.errors.ModelLoadFailed` (artifact missing, corrupt or of
    another shape) or :class:`~inference_service.core.errors.BackendUnavailable` (library or device not here), and
    leave nothing allocated behind when they do.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """In the runtime's order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """In the runtime's order."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Libraries, drivers and the chip, for the engine's card; no empty values."""
        ...

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """One forward pass.

        ``inputs``: C-contiguous, one per spec, each of its shape and dtype; read-only arrays are fine, none is
        written to. Returns one array per output spec, owned by the caller.

        A runtime that broke is started again before the next call, within a budget
        (:class:`~.restarts.RestartBudget`); the failed call is not repeated.

        Raises:
            InferenceFailed: the runtime refused or broke, or the session was closed.
            EngineFault: it broke before and cannot be started again, or not so soon.
        """
        ...

    def recover(self) -> None:
        """Release the runtime and load again what was loaded, without regard to the budget.

        Raises:
            EngineFault: that failed, or the session was closed.
        """
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


@runtime_checkable
class DenoisingSession(Protocol):
    """What a session has beside :class:`RuntimeSession` where it runs a denoising loop."""

    @property
    def no_guidance(self) -> str:
        """Why the loop cannot be guided; empty where it can."""
        ...

    def run_guided(self, inputs: Sequence[NDArray[Any]], guide: Guide) -> list[NDArray[Any]]:
        """As ``run``, ``guide`` asked at every step.

        Raises:
            InferenceFailed: also where the loop cannot be guided.
        """
        ...
