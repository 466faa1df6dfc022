"""Rockchip's NPU through RKNNLite: one object or a pool of them behind a session."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.rknn_npu import DTYPES, Arrays, Npu, import_api
from inference_service.backends.compiled.session import TensorSpec
from inference_service.core.errors import EngineFault, InferenceFailed, ModelLoadFailed, NonFiniteAction

_log = logging.getLogger(__name__)


class RKNNRuntimeSession:
    """A :class:`~.session.RuntimeSession` over one RKNNLite object per entry of ``cores``, a name of
    :data:`.rknn_npu.CORES` each.

    Each object holds the model once and serves one caller at a time; with several, as many threads infer at once.
    ``inputs`` must be right, as RKNNLite cannot tell its own: pictures as ``NHWC`` or ``NCHW``, the order that of
    the artifact. ``output_names`` are given to the outputs in their order. Every object infers once on made-up input
    before the constructor returns. One that fails later is rebuilt before its next use, three times a minute at most;
    meanwhile the others serve.

    A caller waits ``busy_s`` at most for a free object. A call into the library cannot be interrupted.

    Raises:
        BackendUnavailable: RKNNLite, its runtime library or the NPU is not here.
        ModelLoadFailed: the runtime refuses the model, or its outputs are no numbers.
    """

    def __init__(
        self,
        model: Path,
        inputs: Sequence[TensorSpec],
        cores: Sequence[str] = ("auto",),
        output_names: Sequence[str] = (),
        busy_s: float = 5.0,
    ) -> None:
        self._inputs = tuple(inputs)
        self._busy_s = busy_s
        self._closed = threading.Event()
        _check_dtypes(self._inputs, model)
        api = import_api()
        self._idle: queue.Queue[Npu] = queue.Queue()
        self._npus: list[Npu] = []
        try:
            for core in cores:
                self._npus.append(Npu(api, model, core, self._inputs))
                self._npus[-1].prove()
            self._outputs = _named(self._npus[0].shapes, output_names, model)
        except (InferenceFailed, NonFiniteAction) as error:
            self._release()
            raise ModelLoadFailed(f"{model} loads, but does not infer: {error}") from error
        except BaseException:
            self._release()
            raise
        for npu in self._npus:
            self._idle.put(npu)
        self._versions = {**self._npus[0].versions, "npu cores": ", ".join(cores)}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def versions(self) -> Mapping[str, str]:
        return self._versions

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """One inference; ``inputs`` and result as in :meth:`.session.RuntimeSession.run`. Thread-safe.

        Raises:
            InferenceFailed: the runtime failed, repeats itself, is busy for too long, or the session was closed.
            NonFiniteAction: an output holds NaN or infinity.
            EngineFault: no object can be started again, or none so soon.
        """
        _check_shapes(self._inputs, inputs)
        fault = EngineFault("no NPU object")
        for _ in self._npus:
            npu = self._take()
            try:
                return npu.infer(inputs)
            except EngineFault as error:
                # It did not infer, and leaves its turn to the next.
                fault = error
            finally:
                self._idle.put(npu)
        raise fault

    def recover(self) -> None:
        """Build every object anew, and let each infer once.

        Raises:
            EngineFault: none of them does, all are stuck in a call into the library, or the session was closed.
        """
        npus = self._taken_all()
        faults = []
        for npu in npus:
            try:
                npu.rebuild()
            except EngineFault as error:
                _log.error("%s", error)
                faults.append(str(error))
            finally:
                self._idle.put(npu)
        if len(faults) == len(npus):
            raise EngineFault("; ".join(dict.fromkeys(faults)))

    def _taken_all(self) -> list[Npu]:
        """Every object that is free within ``busy_s``, one at least."""
        npus: list[Npu] = []
        deadline = time.monotonic() + self._busy_s
        while len(npus) < len(self._npus):
            try:
                npus.append(self._take(deadline - time.monotonic()))
            except InferenceFailed as error:
                if not npus or self._closed.is_set():
                    for npu in npus:
                        self._idle.put(npu)
                    raise EngineFault(f"{error}; restart the engine's process") from error
                break
        return npus

    def _take(self, timeout_s: float | None = None) -> Npu:
        """A free object, for which ``timeout_s`` (``busy_s``) is waited at most."""
        if self._closed.is_set():
            raise InferenceFailed("this session was closed")
        try:
            npu = self._idle.get(timeout=max(0.0, self._busy_s if timeout_s is None else timeout_s))
        except queue.Empty:
            raise InferenceFailed(
                f"all {len(self._npus)} NPU objects are busy for more than {self._busy_s:g} s"
            ) from None
        if self._closed.is_set():
            self._idle.put(npu)
            raise InferenceFailed("this session was closed")
        return npu

    def close(self) -> None:
        """Release every object, after the inference in progress. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        deadline = time.monotonic() + self._busy_s
        waiting = len(self._npus)
        while waiting:
            try:
                self._idle.get(timeout=max(0.0, deadline - time.monotonic())).release()
            except queue.Empty:
                _log.error("%d NPU objects are still inferring and are left to the process's end", waiting)
                break
            waiting -= 1

    def _release(self) -> None:
        for npu in self._npus:
            npu.release()


def _check_dtypes(inputs: Sequence[TensorSpec], model: Path) -> None:
    if wrong := [str(spec) for spec in inputs if spec.dtype.name not in DTYPES or not spec.dtype.isnative]:
        raise ModelLoadFailed(f"{model}: RKNNLite does not take {', '.join(wrong)}; it takes {', '.join(DTYPES)}")


def _check_shapes(specs: Sequence[TensorSpec], inputs: Sequence[NDArray[Any]]) -> None:
    """RKNNLite compares ranks only, and would read a picture of another layout as if it were right."""
    given = [(array.shape, array.dtype) for array in inputs]
    if given != [(spec.shape, spec.dtype) for spec in specs]:
        shapes = ", ".join(f"{dtype.name} {list(shape)}" for shape, dtype in given)
        raise InferenceFailed(f"expected inputs {', '.join(map(str, specs))}; got {shapes or 'none'}")


def _named(shapes: Sequence[Sequence[int]] | None, names: Sequence[str], model: Path) -> tuple[TensorSpec, ...]:
    shapes = shapes or ()
    if names and len(names) != len(shapes):
        raise ModelLoadFailed(f"{model}: {len(names)} outputs are declared ({', '.join(names)}), it has {len(shapes)}")
    chosen = names or [f"output{index}" for index in range(len(shapes))]
    return tuple(
        # Whatever the model's own type, RKNNLite asks the library for floats.
        TensorSpec(name, tuple(shape), np.dtype(np.float32))
        for name, shape in zip(chosen, shapes, strict=True)
    )
