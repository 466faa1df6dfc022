"""The one interface behind which every runtime stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    ``n_obs_steps`` above 1: the policy looks back. ``earlier_observations``: how many of them a request may bring
    itself (:attr:`InferenceContext.earlier`); of one that brings none, the policy keeps the session's observations.
    ``supports_rtc``: it takes a :class:`LeftOver`. ``max_batch`` above 1: it is a :class:`BatchingPolicy`.
    """

    policy_type: str
    backend_type: str
    device: str
    chunk_size: int
    action_dim: int
    input_features: Mapping[str, Feature]
    versions: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    n_obs_steps: int = 1
    earlier_observations: int = 0
    supports_rtc: bool = False
    max_batch: int = 1


@dataclass(frozen=True, eq=False)
class LeftOver:
    """Real-time chunking: what the robot still has to execute of the chunk before (Black et al. 2025, and LeRobot's
    ``RTCConfig``). ``actions``: normalised, float32 (steps left, action_dim), the first one due at the observation.
    ``inference_delay``: steps that will have been executed when the answer arrives. ``execution_horizon``: up to
    which step the new chunk is tied to the old one."""

    actions: Float32
    inference_delay: int
    execution_horizon: int


@dataclass(frozen=True, eq=False)
class InferenceContext:
    """What a request carries beside its observation.

    ``session``: whose observation it is (a device's process); policies that look back keep a history for each, and
    never mix them. ``seed`` of the noise that a flow or diffusion policy starts from; None leaves it to the
    backend's own. ``left_over`` only for policies with ``supports_rtc``. ``stamp_ns``: when the observation was
    taken, on the device's clock; tells whether it follows on the session's last one.

    ``earlier``: the observations of the control ticks before, oldest first, prepared as the batch is and of its inputs
    alone (no prompt, no tokens); at most ``spec.earlier_observations``. Fewer where the session began in between: the
    oldest is then repeated, as LeRobot's queues do. None: nothing is said, and the policy looks back on what it kept of
    the session's requests.
    """

    session: str = ""
    seed: int | None = None
    left_over: LeftOver | None = None
    stamp_ns: int | None = None
    earlier: tuple[Batch, ...] | None = None


NO_CONTEXT = InferenceContext()


@runtime_checkable
class PolicyWrapper(Protocol):
    """A policy on some runtime. Stateless but for the histories of sessions: the same batch and context give the same
    chunk, whoever else asked before.

    Safe to call from any one thread at a time; :class:`~inference_service.core.engine.PureInferenceEngine`
    holds the lock.
    """

    @property
    def spec(self) -> PolicySpec: ...

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        """Normalised actions, float32 (chunk_size, action_dim), for a batch of one.

        Raises:
            InferenceFailed: the runtime refused or broke. The next call may succeed: a backend starts a broken
                runtime again by itself before it, at most a few times a minute.
            EngineFault: it does not serve, and will not at the next call; see :class:`RecoverablePolicy`.
        """
        ...

    def close(self) -> None:
        """Release the runtime. Idempotent."""
        ...


@runtime_checkable
class BatchingPolicy(Protocol):
    """A policy that computes several robots' chunks in one forward pass."""

    def predict_action_chunks(self, requests: Sequence[tuple[Batch, InferenceContext]]) -> Sequence[Float32]:
        """One chunk per request, as :meth:`PolicyWrapper.predict_action_chunk` would give it (up to rounding), for at
        most ``spec.max_batch`` requests of equal shapes."""
        ...


@runtime_checkable
class RememberingPolicy(Protocol):
    """A policy with a history for each session."""

    def forget(self, session: str) -> None:
        """Drop the session's history; the next observation is its first. Unknown sessions are no error."""
        ...


@runtime_checkable
class RecoverablePolicy(Protocol):
    """A policy whose runtime can be started again in this process.

    After an ``EngineFault`` an engine offers itself no more, and calls ``recover`` every now and then: out of memory
    passes when another process ends, a worker runs again when its file was put back. A policy without ``recover``
    needs a new process.
    """

    def recover(self) -> None:
        """Release what is left of the runtime and load it again, without regard to any budget of restarts. Whether
        it computes is for a warm-up to show. Blocks as loading does; called as ``predict_action_chunk`` is.

        Raises:
            EngineFault: it cannot be loaded now, or the policy was closed. May be tried again later.
        """
        ...


@dataclass(frozen=True)
class BackendOptions:
    """How to load: ``device`` as given (``cpu``, ``cuda``, ``cuda:1``…), number of CPU ``threads``
    (0: the library's choice), and the backend's own ``extra`` options."""

    device: str = "cpu"
    threads: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
