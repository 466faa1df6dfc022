"""HiSilicon SD3403 (Hi3403, SS928): a model run by the vendor's worker program."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.restarts import RestartBudget
from inference_service.backends.compiled.sd3403_protocol import (
    VERSION,
    Reply,
    WorkerBroken,
    WorkerRefused,
    read_reply,
    request,
)
from inference_service.backends.compiled.sd3403_worker import Worker
from inference_service.backends.compiled.session import TensorSpec
from inference_service.backends.onnx import digest
from inference_service.core.batch import Float32
from inference_service.core.errors import BackendError, EngineFault, InferenceFailed, ModelLoadFailed, NonFiniteAction

# The NPU writes rows of this many elements where it pads them.
_PADDED_ROW = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActionOutput:
    """Where in a reply the action is: output ``index``, ``rows`` rows of which the first ``width`` elements count.

    ``direct``: rows follow each other. ``strided``: each row takes ``stride`` elements. None: whichever of the two
    (with rows of a multiple of 8) the output's size fits.
    """

    index: int
    rows: int
    width: int
    layout: Literal["direct", "strided"] | None = None
    stride: int | None = None

    def decode(self, reply: Reply) -> Float32:
        """The action, (1, rows, width) float32, in memory of its own.

        Raises:
            InferenceFailed: no such output, or of another size or type.
            NonFiniteAction: it holds NaN or infinity.
        """
        array = reply.outputs.get(self.index)
        if array is None:
            present = ", ".join(f"{index} {list(output.shape)}" for index, output in sorted(reply.outputs.items()))
            raise InferenceFailed(
                f"the worker's reply has no output {self.index} for the action, only {present or 'none'}; "
                "name it with backend_config.action_output.index"
            )
        if array.dtype.kind != "f":
            raise InferenceFailed(f"output {self.index} of the worker is {array.dtype.name}, an action is float")
        stride = self._stride_of(array.size)
        rows = array.reshape(self.rows, stride)[:, : self.width]
        if not np.isfinite(rows).all():
            raise NonFiniteAction(f"output {self.index} of the worker holds NaN or infinity")
        return np.array(rows, np.float32, order="C")[np.newaxis]

    def _stride_of(self, size: int) -> int:
        padded = self.stride or -(-self.width // _PADDED_ROW) * _PADDED_ROW
        strides = {"direct": (self.width,), "strided": (padded,), None: (self.width, padded)}[self.layout]
        for stride in strides:
            if size == self.rows * stride:
                return stride
        expected = " or ".join(f"{self.rows} x {stride}" for stride in dict.fromkeys(strides))
        raise InferenceFailed(
            f"output {self.index} of the worker has {size} elements, an action of this policy has {expected}; "
            "is it another output (backend_config.action_output.index), or another model?"
        )


@dataclass(frozen=True)
class Patience:
    """Seconds: for a reply; for the first one of a worker, which loads its model before; for a worker to leave when
    its pipes are closed. ``max_restarts`` of a broken worker within ``restart_window_s`` at most."""

    request_s: float = 5.0
    start_s: float = 60.0
    leave_s: float = 5.0
    max_restarts: int = 3
    restart_window_s: float = 60.0


class SD3403RuntimeSession:
    """A :class:`~.session.RuntimeSession` over one worker process.

    ``inputs`` are float32, as the protocol carries nothing else. A first inference on made-up input proves the
    worker before the constructor returns. A request that finds the worker broken fails, and is not repeated: the
    next one starts another worker, as long as the budget lasts.

    Raises:
        ModelLoadFailed: the worker refuses the model, exits, stays silent or returns no such action.
        BackendUnavailable: this system cannot execute the worker.
    """

    def __init__(
        self,
        worker: Path,
        model: Path,
        inputs: Sequence[TensorSpec],
        action: ActionOutput,
        patience: Patience | None = None,
    ) -> None:
        self._executable, self._model = worker, model
        self._inputs = tuple(inputs)
        self._action = action
        self._patience = patience or Patience()
        self._budget = RestartBudget(self._patience.max_restarts, self._patience.restart_window_s)
        self._lock = threading.Lock()
        self._closed = False
        self._last_id = 0
        self._last_end = ""
        self._worker: Worker | None = None
        self._check_inputs()
        self._versions = {"sd3403 protocol": str(VERSION), "worker": f"{worker.name} sha256:{digest(worker)[:12]}"}
        try:
            self._worker = Worker(worker, model)
            self._infer([np.zeros(spec.shape, np.float32) for spec in self._inputs])
        except (InferenceFailed, NonFiniteAction) as error:
            self.close()
            raise ModelLoadFailed(f"{worker} does not run {model}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _check_inputs(self) -> None:
        wrong = [str(spec) for spec in self._inputs if spec.dtype != np.float32 or spec.layout == "NHWC"]
        if wrong:
            raise ModelLoadFailed(
                f"{self._model}: the worker takes float32, images as NCHW, not {', '.join(wrong)}; correct the bindings"
            )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("action", (1, self._action.rows, self._action.width), np.dtype(np.float32)),)

    @property
    def versions(self) -> Mapping[str, str]:
        return self._versions

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """One exchange with the worker; ``inputs`` and result as in :meth:`.session.RuntimeSession.run`.

        Raises:
            InferenceFailed: the worker refused or broke, or the session was closed.
            EngineFault: it broke before and may not be started again yet, or cannot.
        """
        _check_shapes(self._inputs, inputs)
        with self._lock:
            if self._closed:
                raise InferenceFailed("this session was closed")
            return [self._infer(inputs)]

    def recover(self) -> None:
        """Start another worker; its first answer, which may be a warm-up's, tells whether it runs the model.

        Raises:
            EngineFault: it cannot be started, or the session was closed.
        """
        with self._lock:
            if self._closed:
                raise EngineFault("this session was closed")
            self._end_worker(0)
            self._started()

    def close(self) -> None:
        """End the worker, after the request in progress. Idempotent."""
        with self._lock:
            self._closed = True
            self._end_worker(self._patience.leave_s)

    def _infer(self, inputs: Sequence[NDArray[Any]]) -> Float32:
        worker = self._living_worker()
        self._last_id += 1
        try:
            worker.send(
                request(self._last_id, inputs), self._patience.start_s if worker.first else self._patience.request_s
            )
            reply = read_reply(worker, self._last_id)
        except WorkerRefused:
            worker.first = False
            raise
        except WorkerBroken as error:
            _log.error("worker %d is broken and will be replaced", worker.pid)
            self._last_end = f"{error}; it {worker.describe()}"
            self._end_worker(0)
            raise InferenceFailed(self._last_end) from error
        except BaseException:
            # Interrupted half-way: nobody knows what is still in the pipes.
            self._end_worker(0)
            raise
        worker.first = False
        return self._action.decode(reply)

    def _living_worker(self) -> Worker:
        if self._worker is not None and self._worker.alive:
            return self._worker
        if self._worker is not None:
            self._last_end = self._worker.describe()
            _log.error("worker %d is gone: %s", self._worker.pid, self._last_end)
            self._end_worker(0)
        if not self._budget.spend():
            raise EngineFault(
                f"the worker is gone and had its {self._budget}, it is started again later; "
                f"the last one: {self._last_end}"
            )
        return self._started()

    def _started(self) -> Worker:
        try:
            worker = self._worker = Worker(self._executable, self._model)
        except BackendError as error:
            raise EngineFault(f"the worker is gone and cannot be started again: {error}") from error
        _log.warning("started worker %d in place of a broken one", worker.pid)
        return worker

    def _end_worker(self, graceful_s: float) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end(graceful_s)


def _check_shapes(specs: Sequence[TensorSpec], inputs: Sequence[NDArray[Any]]) -> None:
    """The wire carries neither shapes nor dtypes, so nobody else would notice."""
    given = [(array.shape, array.dtype) for array in inputs]
    if given != [(spec.shape, spec.dtype) for spec in specs]:
        shapes = ", ".join(f"{dtype.name} {list(shape)}" for shape, dtype in given)
        raise InferenceFailed(f"expected inputs {', '.join(map(str, specs))}; got {shapes or 'none'}")
