"""``CompiledPolicyWrapper``: a model family and a runtime behind the one interface that the engine knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from inference_service.backends.compiled.session import DenoisingSession
from inference_service.core.batch import Batch, Float32
from inference_service.core.errors import EngineFault, InferenceFailed, InferenceServiceError, InvalidObservation
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec

if TYPE_CHECKING:
    from inference_service.backends.compiled.adapters import Adapter
    from inference_service.backends.compiled.session import RuntimeSession
    from inference_service.core.policy_folder import PolicyFolder

TENSOR_DEVICE = "cpu"
"""Where a compiled runtime takes its tensors, whatever training device config.json records."""


class CompiledPolicyWrapper:
    """A :class:`~inference_service.core.policy.PolicyWrapper` of an ``adapter``, which gives tensors a meaning, and a
    ``session``, which computes.

    Owns ``session`` from here on: closes it with itself, and also when it does not fit ``adapter``.

    Raises:
        ModelLoadFailed: the artifact is of another shape than ``folder``'s config.json says.
    """

    def __init__(self, folder: PolicyFolder, adapter: Adapter, session: RuntimeSession, backend_type: str) -> None:
        self._adapter = adapter
        self._session: RuntimeSession | None = session
        try:
            adapter.fit(session.inputs, session.outputs)
        except BaseException:
            session.close()
            raise
        self._spec = PolicySpec(
            policy_type=folder.config.type,
            backend_type=backend_type,
            device=TENSOR_DEVICE,
            chunk_size=adapter.chunk_size,
            action_dim=adapter.action_dim,
            input_features=adapter.input_features,
            versions=dict(session.versions),
            supports_rtc=isinstance(session, DenoisingSession) and not session.no_guidance,
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    @property
    def input_order(self) -> tuple[str, ...]:
        """The policy's name of each of the artifact's inputs."""
        return self._adapter.order

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        if self._session is None:
            raise InferenceFailed("this policy was closed")
        try:
            return self._adapter.decode(self._outputs(self._session, batch, context))
        except InferenceServiceError:
            raise
        except Exception as error:
            raise InferenceFailed(f"backend '{self._spec.backend_type}' failed: {error}") from error

    def _outputs(self, session: RuntimeSession, batch: Batch, context: InferenceContext) -> list[NDArray[Any]]:
        inputs = self._adapter.encode(batch, context.seed)
        if context.left_over is None:
            return session.run(inputs)
        guide = self._adapter.guide(context.left_over)
        if guide is None or not isinstance(session, DenoisingSession):
            raise InvalidObservation(f"'{self._spec.policy_type}' does not denoise, and takes no left-over actions")
        return session.run_guided(inputs, guide)

    def recover(self) -> None:
        """See :class:`~inference_service.core.policy.RecoverablePolicy`."""
        if self._session is None:
            raise EngineFault("this policy was closed")
        self._session.recover()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
