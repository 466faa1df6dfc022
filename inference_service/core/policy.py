"""The one interface behind which every runtime stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from inference_service.core.batch import Batch, Feature, Float32


@dataclass(frozen=True)
class PolicySpec:
    """What a loaded policy says of itself.

    ``policy_type`` is the model family (``act``), ``backend_type`` the runtime (``onnx``, ``lerobot``,
    ``ascend_om``…), ``device`` where it computes (``cpu``, ``cuda:0``…).
    ``versions`` names the libraries (for the engine's card). ``image_size`` (height, width): the model resizes its
    images to this first, and so takes them in this size as well.
    """

    policy_type: str
    backend_type: str
    device: str
    chunk_size: int
    action_dim: int
    input_features: Mapping[str, Feature]
    versions: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None


@runtime_checkable
class PolicyWrapper(Protocol):
    """A policy on some runtime. Stateless: the same batch gives the same chunk, whoever asked before.

    Safe to call from any one thread at a time; :class:`~inference_service.core.engine.PureInferenceEngine`
    holds the lock.
    """

    @property
    def spec(self) -> PolicySpec: ...

    def predict_action_chunk(self, batch: Batch) -> Float32:
        """Normalised actions, float32 (chunk_size, action_dim), for a batch of one.

        Raises:
            InferenceFailed: the runtime refused or broke.
        """
        ...

    def close(self) -> None:
        """Release the runtime. Idempotent."""
        ...


@dataclass(frozen=True)
class BackendOptions:
    """How to load: ``device`` as given (``cpu``, ``cuda``, ``cuda:1``…), number of CPU ``threads``
    (0: the library's choice), and the backend's own ``extra`` options."""

    device: str = "cpu"
    threads: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
