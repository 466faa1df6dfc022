"""``OMRuntimeSession``: one ``.om`` on an Ascend chip through pyACL."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from inference_service.backends.compiled.acl_model import AclModel
from inference_service.backends.compiled.acl_runtime import AclContext
from inference_service.backends.compiled.matching import bind
from inference_service.core.errors import InferenceFailed

if TYPE_CHECKING:
    from inference_service.backends.compiled.session import TensorSpec
    from inference_service.backends.compiled.sidecar import Sidecar


class OMRuntimeSession:
    """See :class:`~.session.RuntimeSession`. Buffers are allocated at load and reused.

    Raises:
        BackendUnavailable: CANN or the device is not here.
        ModelLoadFailed: the artifact does not load, or is not what the sidecar declares.
    """

    def __init__(self, sidecar: Sidecar, device_id: int = 0) -> None:
        self._lock = threading.Lock()
        self._context = AclContext(device_id)
        self._closed = False
        try:
            self._context.bind()
            self._model = AclModel(self._context, sidecar.artifacts["policy"].path)
            declared = sidecar.bindings_of("policy")
            where = f"{sidecar.file} and {self._model.path.name}"
            self.inputs: tuple[TensorSpec, ...] = bind(self._model.inputs, declared.inputs, where)
            self.outputs: tuple[TensorSpec, ...] = bind(self._model.outputs, declared.outputs, where)
            self._model.allocate()
            self.versions: Mapping[str, str] = self._context.versions
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with self._lock:
            if self._closed:
                raise InferenceFailed("this session was closed")
            self._context.bind()
            for index, array in enumerate(inputs):
                self._model.write(index, array)
            self._model.execute()
            return [self._model.read(index) for index in range(len(self.outputs))]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._context.close()
