"""Sessions on an Ascend chip through pyACL: what they share, and ``OMRuntimeSession`` for a single ``.om``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from inference_service.backends.compiled.acl_model import AclModel
from inference_service.backends.compiled.acl_runtime import AclContext, runtime_kept
from inference_service.backends.compiled.matching import bind
from inference_service.backends.compiled.restarts import RestartBudget
from inference_service.core.errors import BackendError, EngineFault, InferenceFailed

if TYPE_CHECKING:
    from inference_service.backends.compiled.session import TensorSpec
    from inference_service.backends.compiled.sidecar import Sidecar

_MAX_RESTARTS, _RESTART_WINDOW_S = 3, 60.0
_log = logging.getLogger(__name__)


class AclSession:
    """See :class:`~.session.RuntimeSession`. Models are loaded into a context of their own, buffers allocated once.

    After a call of pyACL failed nothing in the context can be relied on: before the next request it is released and
    the models are loaded again, at most three times a minute. The failed request is not repeated. A device that does
    not take the models back, or fails more often, is an ``EngineFault`` until :meth:`recover`.

    Raises:
        BackendUnavailable: CANN or the device is not here.
        ModelLoadFailed: an artifact does not load, or is not what the sidecar declares.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    versions: Mapping[str, str]

    def __init__(self, sidecar: Sidecar, device_id: int = 0) -> None:
        self._sidecar = sidecar
        self._device_id = device_id
        self._lock = threading.Lock()
        self._closed = False
        self._last_failure = ""
        self._budget = RestartBudget(_MAX_RESTARTS, _RESTART_WINDOW_S)
        with ExitStack() as stack:
            # Kept while no context is open, too: init after finalize is not safe on every CANN.
            stack.enter_context(runtime_kept())
            self._context: AclContext | None = self._start()
            self._runtime = stack.pop_all()

    def _start(self) -> AclContext:
        context = AclContext(self._device_id)
        try:
            context.bind()
            self._load(context)
            self.versions = context.versions
        except BaseException:
            context.close()
            raise
        return context

    def _load(self, context: AclContext) -> None:
        """Load into ``context``, which is bound, and set ``inputs`` and ``outputs``."""
        raise NotImplementedError

    def _forward(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """One forward pass; the context is bound."""
        raise NotImplementedError

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with self._serving(inputs):
            return self._forward(inputs)

    @contextmanager
    def _serving(self, inputs: Sequence[NDArray[Any]]) -> Iterator[None]:
        """Inside, ``inputs`` may go to the device, and nobody else's do."""
        with self._lock:
            context = self._living_context()
            if len(inputs) != len(self.inputs):
                raise InferenceFailed(f"{len(inputs)} inputs were given, expected {len(self.inputs)}")
            try:
                context.bind()
                yield
            finally:
                self._last_failure = context.failure

    def _living_context(self) -> AclContext:
        if self._closed:
            raise InferenceFailed("this session was closed")
        if self._context is None or self._context.failure:
            if not self._budget.spend():
                raise EngineFault(
                    f"device {self._device_id} failed and had its {self._budget}, it is tried again later; "
                    f"the last failure: {self._last_failure}"
                )
            _log.warning("a call of pyACL failed before: releasing device %d and loading again", self._device_id)
            return self._reload()
        return self._context

    def recover(self) -> None:
        with self._lock:
            if self._closed:
                raise EngineFault("this session was closed")
            self._reload()

    def _reload(self) -> AclContext:
        context, self._context = self._context, None
        described = self.inputs, self.outputs
        if context is not None:
            context.close()
        try:
            context = self._start()
        except BackendError as error:
            raise EngineFault(f"device {self._device_id} failed, and so did loading again: {error}") from error
        if (self.inputs, self.outputs) != described:
            self.inputs, self.outputs = described
            context.close()
            raise EngineFault(f"{self._sidecar.file}: its artifacts are others than before; restart the engine")
        self._context = context
        return context

    def close(self) -> None:
        with self._lock:
            self._closed = True
            context, self._context = self._context, None
            if context is not None:
                context.close()
            self._runtime.close()


class OMRuntimeSession(AclSession):
    """One ``.om``."""

    def _load(self, context: AclContext) -> None:
        model = self._model = AclModel(context, self._sidecar.artifacts["policy"].path)
        declared = self._sidecar.bindings_of("policy")
        where = f"{self._sidecar.file} and {model.path.name}"
        self.inputs = bind(model.inputs, declared.inputs, where)
        self.outputs = bind(model.outputs, declared.outputs, where)
        model.allocate()

    def _forward(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        for index, array in enumerate(inputs):
            self._model.write(index, array)
        self._model.execute()
        return [self._model.read(index) for index in range(len(self.outputs))]
