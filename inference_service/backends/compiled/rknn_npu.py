"""One RKNNLite object: opened, asked, distrusted, and built anew.

What the wheels 2.3.2 and 2.5.0 were measured to do decides much of this file: they compare no shapes, return ``None``
instead of raising, hand out the outputs of the call before where ``rknn_run`` failed, write into the list they are
given, and keep no lock.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.restarts import RestartBudget
from inference_service.backends.compiled.session import TensorSpec
from inference_service.core.errors import (
    BackendError,
    BackendUnavailable,
    EngineFault,
    InferenceFailed,
    ModelLoadFailed,
    NonFiniteAction,
)

CORES = {"auto": 0, "0": 1, "1": 2, "2": 4, "0_1": 3, "0_1_2": 7, "all": 0xFFFF}
"""Masks by name, as RKNNLite's NPU_CORE_*."""

DTYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")
"""What RKNNLite takes; the library converts to the model's own type."""

BOARD = Path("/")
_SOCS = ("rk3562", "rk3566", "rk3568", "rk3576", "rk3588", "rv1126b")
_DISTRIBUTION = "rknn-toolkit-lite2"
_MAX_RESTARTS = 3
_RESTART_WINDOW_S = 60.0
_log = logging.getLogger(__name__)
Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class _Answer:
    """``question``: a checksum of each input."""

    question: tuple[int, ...]
    outputs: Arrays


class Npu:
    """One RKNNLite object. Not thread-safe."""

    def __init__(self, api: Any, model: Path, core: str, inputs: Sequence[TensorSpec]) -> None:
        self._api, self._model, self._core, self._inputs = api, model, core, inputs
        self._format = data_format(inputs)
        self._budget = RestartBudget(_MAX_RESTARTS, _RESTART_WINDOW_S)
        self._last: _Answer | None = None
        self._failure = ""
        self.shapes: tuple[tuple[int, ...], ...] | None = None
        self._lite: Any | None = self._open()
        self.versions = _versions(self._lite)

    def _open(self) -> Any:
        lite = self._api.RKNNLite()
        try:
            if lite.load_rknn(str(self._model)) != 0:
                raise ModelLoadFailed(f"{self._model}: RKNNLite cannot read it; its own log line says why")
            # `target` is for a PC with a board on its USB port, and is refused on the board itself.
            if lite.init_runtime(core_mask=CORES[self._core]) != 0:
                raise _refusal(self._model, self._core)
        except BackendError:
            # After a failed init_runtime the object may still infer, on other cores than asked.
            lite.release()
            raise
        except Exception as error:
            lite.release()
            raise _raised(error) from error
        return lite

    def prove(self) -> None:
        """One inference on made-up input, which also tells the outputs' shapes."""
        self.infer(_noise(self._inputs))

    def infer(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        rebuilt = self._lite is None
        if self._lite is None:
            self._lite = self._reopen()
        try:
            if rebuilt:
                self._fresh(_noise(self._inputs))
            outputs = self._fresh(inputs)
        except BaseException as error:
            # Known to help where a context has begun to return NaN, and after every error of the driver.
            self.release()
            self._failure = str(error)
            raise
        return outputs

    def release(self) -> None:
        lite, self._lite = self._lite, None
        self._last = None
        if lite is not None:
            lite.release()

    def _reopen(self) -> Any:
        if not self._budget.spend():
            raise EngineFault(
                f"the NPU failed and had its {self._budget}, it is started again later; "
                f"the last failure: {self._failure}"
            )
        _log.warning("rebuilding the NPU's context on core %s", self._core)
        try:
            return self._open()
        except BackendError as error:
            raise EngineFault(f"the NPU failed and cannot be started again: {error}") from error

    def rebuild(self) -> None:
        """Release and open it, and let it infer once.

        Raises:
            EngineFault: one of these failed.
        """
        self.release()
        try:
            self._lite = self._open()
            self.prove()
        except BackendError as error:
            raise EngineFault(f"the NPU's context on core {self._core} cannot be rebuilt: {error}") from error

    def _fresh(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """The outputs for ``inputs``, and surely for these."""
        outputs = self._call(inputs)
        question = _checksums(inputs)
        if self._last is not None and question != self._last.question and _equal(outputs, self._last.outputs):
            outputs = self._verified(inputs, outputs)
        self._last = _Answer(question, [output.copy() for output in outputs])
        return outputs

    def _verified(self, inputs: Sequence[NDArray[Any]], outputs: Arrays) -> Arrays:
        """Another question was answered alike. A quantised model may do so; a runtime whose ``rknn_run`` failed in
        silence does. A third, quite different question tells."""
        probe = self._call(_noise(self._inputs))
        again = self._call(inputs)
        if _equal(probe, outputs) or _equal(probe, again):
            raise InferenceFailed(
                "the NPU answers different inputs with the same outputs: rknn_run fails in silence; see dmesg for rknpu"
            )
        if not _equal(again, outputs):
            _log.warning("the NPU returned the answer of the call before once; it was asked again")
        return again

    def _call(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        assert self._lite is not None
        try:
            # A list of our own: RKNNLite replaces what it transposes.
            outputs = self._lite.inference(inputs=list(inputs), data_format=self._format)
        except Exception as error:
            raise InferenceFailed(f"RKNNLite raised {type(error).__name__}: {error}") from error
        if not isinstance(outputs, list) or not all(isinstance(output, np.ndarray) for output in outputs):
            raise InferenceFailed("RKNNLite returned no outputs; its own log line says why")
        self._check(outputs)
        return outputs

    def _check(self, outputs: Arrays) -> None:
        shapes = tuple(output.shape for output in outputs)
        if shapes != (self.shapes or shapes):
            raise InferenceFailed(f"RKNNLite returned outputs of shapes {shapes}, expected {self.shapes}")
        if not all(np.isfinite(output).all() for output in outputs):
            raise NonFiniteAction("the NPU returned NaN or infinity; its context is rebuilt before the next inference")
        if not any(output.any() for output in outputs):
            raise InferenceFailed("the NPU returned nothing but zeros: an operator failed in silence")
        self.shapes = shapes


def data_format(inputs: Sequence[TensorSpec]) -> str | list[str] | None:
    """What RKNNLite must be told: it looks at this for 4-D inputs only, and moves the axes of any that it believes
    NHWC and the model does not. A list only where it must be one, as older releases refuse lists."""
    formats = ["nhwc" if spec.layout == "NHWC" else "nchw" for spec in inputs]
    needed = {fmt for fmt, spec in zip(formats, inputs, strict=True) if len(spec.shape) == 4}
    if len(needed) > 1:
        return formats
    return needed.pop() if needed else None


def missing_parts(board: Path) -> list[str]:
    """What RKNNLite needs of the system under ``board`` and does not find, each with the fix."""
    missing = []
    compatible = board / "proc/device-tree/compatible"
    if not compatible.is_file():
        missing.append(
            "/proc/device-tree/compatible (in a container: security_opt systempaths=unconfined, or mount it)"
        )
    elif not any(soc in compatible.read_bytes().decode("ascii", "replace") for soc in _SOCS):
        missing.append(f"a Rockchip chip with an NPU ({', '.join(_SOCS)})")
    if not (board / "usr/lib/librknnrt.so").exists():
        missing.append("/usr/lib/librknnrt.so (of rknpu2, of the version that the model was converted with)")
    if (board / ".dockerenv").exists() and not (board / "dev/dri/renderD129").exists():
        missing.append("/dev/dri/renderD129 (pass --device /dev/dri)")
    return missing


def import_api() -> Any:
    try:
        return importlib.import_module("rknnlite.api")
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"RKNNLite cannot be imported ({error}); on the board: pip install {_DISTRIBUTION}"
        ) from error


def _raised(error: Exception) -> BackendError:
    """RKNNLite returns codes; where it raises, it did not find in the system or the library what it counts on."""
    if missing := missing_parts(BOARD):
        return BackendUnavailable(f"RKNNLite did not start ({error}); not found here: {'; '.join(missing)}")
    return BackendUnavailable(
        f"RKNNLite did not start: {type(error).__name__}: {error}; is /usr/lib/librknnrt.so older than the Python "
        f"package {_DISTRIBUTION}? Install both of one version"
    )


def _refusal(model: Path, core: str) -> BackendError:
    """RKNNLite says only -1. Either something of the board is not here, or it does not like the model."""
    if missing := missing_parts(BOARD):
        return BackendUnavailable(f"RKNNLite did not start; not found here: {'; '.join(missing)}")
    return ModelLoadFailed(
        f"{model}: RKNNLite did not start with it on core {core}; its own log line says why. It may be damaged, "
        "converted for another chip, newer than librknnrt.so, the chip lacks that core, or its memory is used up"
    )


def _noise(inputs: Sequence[TensorSpec]) -> Arrays:
    """In [0, 2), so that it fits every dtype."""
    rng = np.random.default_rng(0)
    return [(rng.random(spec.shape) * 2).astype(spec.dtype) for spec in inputs]


def _checksums(inputs: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    """Cheap: whole words are summed, a few milliseconds per 100 MB."""
    return tuple(_checksum(array) for array in inputs)


def _checksum(array: NDArray[Any]) -> int:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat.size & ~7
    return int(flat[:whole].view(np.uint64).sum(dtype=np.uint64)) ^ int(flat[whole:].sum(dtype=np.uint64)) << 64


def _equal(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _versions(lite: Any) -> dict[str, str]:
    """From ``API: 2.3.2 (…)`` and ``DRV: … 0.9.8``, and the wheel's own."""
    said = lite.get_sdk_version() or ""
    found = {
        "librknnrt": re.search(r"API:\s*(?:[^\d\n]*\s)?(\d[\w.]*)", said),
        "rknpu driver": re.search(r"DRV:\s*(?:[^\d\n]*\s)?(\d[\w.]*)", said),
    }
    versions = {name: match[1] for name, match in found.items() if match}
    try:
        versions[_DISTRIBUTION] = metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        _log.debug("%s was not installed by pip, its version is unknown", _DISTRIBUTION)
    return versions
