"""A stand-in for ``rknnlite.api`` that behaves as the real wheels were measured to, and journals every broken rule.

A ``.rknn`` is an ONNX model here, computed by ONNX Runtime. Its metadata may hold, as JSON, ``rknn.inputs`` (the
order of the inputs, where a conversion changed it) and ``rknn.formats`` ({input: NHWC, NCHW or UNDEFINED}); without,
a 4-D input of 1, 3 or 4 channels is reported NHWC, as the converter does with pictures.

The directory in ``RKNN_SIM`` holds ``sim.json`` (``soc``, ``faults``: {function: {n-th call or "n+": fault}}) and
receives ``journal.jsonl``; a file in ``SIMULATOR_JOURNAL`` receives the same. Faults: ``fail`` for ``load_rknn`` and
``init_runtime``, for the latter also ``core mask`` (fails, and leaves the object usable) and ``raise`` (as with a
library older than the wheel); ``none``, ``nan``, ``zeros``, ``stale``, ``slow``, ``shape``, ``raise`` and ``hang``
(makes the file ``hanging``) for ``inference``.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")
_FORMATS = ("nchw", "nhwc")
RULES = {
    "load": "1: load_rknn comes before init_runtime, with a file that exists",
    "target": "2: no target on the board",
    "core mask": "3: the masks of the chip",
    "ignored -1": "4: after a failed init_runtime nothing is asked",
    "list": "5: inputs are a list",
    "fresh list": "5: each call gets a list of its own",
    "input count": "6: as many inputs as the model has",
    "rank": "6: each of the model's rank",
    "layout": "6 and 7: each of the model's shape, in the layout that data_format says",
    "no picture": "8: only pictures are passed as nhwc",
    "data_format": "8: nchw or nhwc, one for all or one for each",
    "dtype": "9: the dtypes that the library takes",
    "finite": "10: no NaN, no infinity",
    "in flight": "11: one call at a time on an object, release among them",
    "reused output": "12: reused outputs are let go before the next call",
    "inference": "14: no inference without a runtime",
    "release": "14: every object is released",
    "async": "B.1: outputs of the frame before are not for control",
    "pass through": "B.1: what passes through is of the model's own dtype and layout",
}
"""What the journal names, by number in table B.4. 13 (faults on demand) and 15 (None is no list) break nothing."""
_live: list[RKNNLite] = []
_calls: Counter[str] = Counter()


def _directory() -> Path:
    return Path(os.environ["RKNN_SIM"])


def _settings() -> dict[str, Any]:
    file = _directory() / "sim.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _breach(rule: str, text: str) -> None:
    assert rule in RULES
    with (_directory() / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"pid": os.getpid(), "rule": rule, "text": text}) + "\n")
    if of_the_suite := os.environ.get("SIMULATOR_JOURNAL"):
        with Path(of_the_suite).open("a") as journal:
            journal.write(f"rknnlite {rule}\t{text} [{os.environ.get('PYTEST_CURRENT_TEST', 'no test')}]\n")


def _fault(function: str) -> str | None:
    """The fault of this call of ``function``."""
    key = f"{_directory()}:{function}"
    _calls[key] += 1
    for number, fault in _settings().get("faults", {}).get(function, {}).items():
        if int(number.rstrip("+")) == _calls[key] or (number.endswith("+") and int(number[:-1]) <= _calls[key]):
            return str(fault)
    return None


def unreleased() -> list[RKNNLite]:
    """Objects that hold a runtime."""
    return list(_live)


@atexit.register
def _leaks() -> None:
    for lite in unreleased():
        _breach("release", f"{lite.path} was never released")


def _log(text: str) -> None:
    sys.stdout.write(f"E RKNN: {text}\n")


class _Input:
    """One input as ``rknn_query`` reports it: ``dims`` in the runtime's layout ``fmt``."""

    def __init__(self, node: Any, formats: dict[str, str]) -> None:
        self.name = node.name
        shape = tuple(node.shape)
        picture = len(shape) == 4 and shape[1] in (1, 3, 4)
        self.fmt = formats.get(node.name, "NHWC" if picture else "UNDEFINED")
        self.dims = (shape[0], shape[2], shape[3], shape[1]) if self.fmt == "NHWC" else shape
        self.dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}[node.type]


class _Refused(Exception):
    """The C library or the wrapper would refuse: ``inference`` returns None."""


class RKNNLite:
    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1
    NPU_CORE_1 = 2
    NPU_CORE_2 = 4
    NPU_CORE_0_1 = 3
    NPU_CORE_0_1_2 = 7
    NPU_CORE_ALL = 0xFFFF

    def __init__(self, verbose: bool = False, verbose_file: str | None = None) -> None:
        self.path: str | None = None
        self.mask: int | None = None
        self._session: Any = None
        self._failed = False
        self._busy = threading.Lock()
        self._given: list[list[Any]] = []
        self._reused: list[np.ndarray] = []
        self._last: list[np.ndarray] | None = None

    def load_rknn(self, path: str, key_path: str | None = None) -> int:
        if not Path(path).is_file():
            _breach("load", f"{path} does not exist")
            return -1
        if _fault("load_rknn"):
            return -1
        self.path = path
        return 0

    def init_runtime(
        self, target: str | None = None, device_id: str | None = None, async_mode: bool = False, core_mask: Any = 0
    ) -> int:
        self._forget()
        if self.path is None:
            _breach("load", "init_runtime before load_rknn")
            return -1
        if target is not None:
            _breach("target", f"target={target!r} on the board")
            _log("Unsupported run platform: Linux aarch64")
            return -1
        if async_mode:
            _breach("async", "outputs would belong to the frame before")
        mask = self._mask(core_mask)
        fault = _fault("init_runtime")
        self._failed = mask is None or fault is not None
        if fault == "raise":
            raise AttributeError("/usr/lib/librknnrt.so: undefined symbol: rknn_set_input_shapes")
        if mask is None or fault == "fail" or not self._open():
            return -1
        self.mask = mask
        _live.append(self)
        return -1 if fault else 0

    def _mask(self, mask: Any) -> int | None:
        """What reaches the C library. None, and a journal entry, where the wrapper refuses."""
        soc = _settings().get("soc", "rk3588")
        if not isinstance(mask, int) or mask not in (0, 1, 2, 3, 4, 7, 0xFFFF):
            _breach("core mask", f"core mode {mask!r} is not supported")
        elif mask == 0:
            return 0
        elif soc not in ("rk3588", "rk3576"):
            _breach("core mask", f"{mask} on {soc}")
        elif soc == "rk3588":
            return 7 if mask == 0xFFFF else mask
        else:
            return {4: 1, 7: 3, 0xFFFF: 3}.get(mask, mask)
        return None

    def _open(self) -> bool:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            # As a converter for a board does with the batch axis that an export leaves open.
            options.add_free_dimension_override_by_name("batch", 1)
            session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  any damage is RKNN_ERR_MODEL_INVALID
            _log(f"rknn_init, failed to load model: -6 ({error})")
            return False
        metadata = session.get_modelmeta().custom_metadata_map
        nodes = {node.name: node for node in session.get_inputs()}
        order = json.loads(metadata.get("rknn.inputs", "null")) or list(nodes)
        formats = json.loads(metadata.get("rknn.formats", "{}"))
        self._inputs = [_Input(nodes[name], formats) for name in order]
        self._session = session
        return True

    def inference(
        self,
        inputs: Any,
        data_type: Any = None,
        data_format: Any = None,
        inputs_pass_through: Any = None,
        get_frame_id: bool = False,
        reuse_outputs: bool = False,
    ) -> list[Any] | None:
        self._poison()
        fault = _fault("inference")
        if self._session is None:
            _breach("inference", "without a runtime: init_runtime failed or release was called")
            return None
        if self._failed:
            _breach("ignored -1", "init_runtime failed, and inference was called all the same")
        if not self._busy.acquire(blocking=False):
            _breach("in flight", "two calls on one object")
            return self._infer(inputs, data_format, inputs_pass_through, fault, reuse_outputs)
        try:
            return self._infer(inputs, data_format, inputs_pass_through, fault, reuse_outputs)
        finally:
            self._busy.release()

    def _infer(
        self, inputs: Any, data_format: Any, inputs_pass_through: Any, fault: str | None, reuse: bool
    ) -> list[Any] | None:
        session = self._session
        if fault == "none":
            return None
        if fault == "raise":
            raise ValueError("the logger raised")
        if fault == "slow":
            time.sleep(1.0)
        if fault == "hang":
            (_directory() / "hanging").touch()
            time.sleep(3600)
        try:
            feeds = self._feeds(inputs, data_format)
            self._check_pass_through(inputs, inputs_pass_through)
        except _Refused as error:
            _log(str(error))
            return None
        outputs = [np.asarray(output, np.float32) for output in session.run(None, feeds)]
        return self._delivered(self._spoilt(outputs, fault), reuse)

    def _spoilt(self, outputs: list[np.ndarray], fault: str | None) -> list[np.ndarray]:
        if fault == "stale":
            return [output.copy() for output in self._last or [np.zeros_like(output) for output in outputs]]
        if fault == "zeros":
            outputs = [np.zeros_like(output) for output in outputs]
        if fault == "nan":
            outputs[0].reshape(-1)[-1] = math.nan
        if fault == "shape":
            outputs[0] = outputs[0][:, :-1]
        self._last = [output.copy() for output in outputs]
        return outputs

    def _delivered(self, outputs: list[np.ndarray], reuse: bool) -> list[np.ndarray]:
        if not reuse:
            return outputs
        self._reused = outputs
        return [output.view() for output in outputs]

    def _poison(self) -> None:
        """Overwrite what the call before handed out as its own memory."""
        for output in self._reused:
            # Ours, the loop's and getrefcount's argument: one more is a caller's view.
            if sys.getrefcount(output) > 3:
                _breach("reused output", "outputs of the call before are still held")
            output.fill(math.nan)
        self._reused = []

    def _feeds(self, inputs: Any, data_format: Any) -> dict[str, np.ndarray]:
        if type(inputs) is not list:
            _breach("list", f"inputs are a {type(inputs).__name__}")
            raise _Refused("The input format is not support!")
        if any(given is inputs for given in self._given):
            _breach("fresh list", "the list of an earlier call was passed again")
        self._given = [*self._given[-3:], inputs]
        if len(inputs) != len(self._inputs):
            _breach("input count", f"{len(inputs)}, the model has {len(self._inputs)}")
            raise _Refused("list index out of range")
        formats = self._formats(data_format, len(inputs))
        return {
            spec.name: self._feed(spec, inputs, index, fmt)
            for index, (spec, fmt) in enumerate(zip(self._inputs, formats, strict=True))
        }

    def _formats(self, data_format: Any, count: int) -> list[str]:
        formats = data_format if isinstance(data_format, list) else [data_format or "nhwc"] * count
        if len(formats) != count or any(fmt not in _FORMATS for fmt in formats):
            _breach("data_format", f"{data_format!r} for {count} inputs")
            raise _Refused("The data_format is not support!")
        return formats

    def _feed(self, spec: _Input, inputs: list[Any], index: int, fmt: str) -> np.ndarray:
        array = inputs[index]
        self._check(spec, array, index)
        if array.ndim == 4:
            array = inputs[index] = self._transposed(spec, array, index, fmt)
        if array.shape != spec.dims:
            _breach("layout", f"input {index} '{spec.name}' is {array.shape}, the model reads it as {spec.dims}")
        if array.size < math.prod(spec.dims):
            raise _Refused(f"param input size({array.nbytes}) < model input size, ret code: RKNN_ERR_PARAM_INVALID(-5)")
        values = np.ascontiguousarray(array).reshape(-1)[: math.prod(spec.dims)].reshape(spec.dims)
        with np.errstate(invalid="ignore"):
            values = values.astype(spec.dtype)
        return values.transpose(0, 3, 1, 2) if spec.fmt == "NHWC" else values

    def _check(self, spec: _Input, array: Any, index: int) -> None:
        if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES or not array.dtype.isnative:
            _breach("dtype", f"input {index} '{spec.name}' is {getattr(array, 'dtype', type(array))}")
            raise _Refused(f"Unsupport inputs[{index}].dtype")
        if array.ndim != len(spec.dims):
            _breach("rank", f"input {index} '{spec.name}' has {array.ndim} dims, the model {len(spec.dims)}")
            raise _Refused(
                f"The input[{index}] need {len(spec.dims)}dims input, but {array.ndim}dims input buffer feed."
            )
        if not np.isfinite(array.astype(np.float32)).all():
            _breach("finite", f"input {index} '{spec.name}' holds NaN or infinity")

    def _check_pass_through(self, inputs: list[Any], flags: Any) -> None:
        for spec, array, flag in zip(self._inputs, inputs, flags or [], strict=False):
            if flag and (array.dtype, array.shape) != (spec.dtype, spec.dims):
                _breach("pass through", f"'{spec.name}' is {array.dtype} {array.shape}, not as the model has it")

    def _transposed(self, spec: _Input, array: np.ndarray, index: int, fmt: str) -> np.ndarray:
        if spec.fmt == "NHWC":
            return array.transpose(0, 2, 3, 1) if fmt == "nchw" else array
        if fmt == "nhwc":
            _breach("no picture", f"input {index} '{spec.name}' ({spec.fmt}) was passed as NHWC and is transposed")
            return array.transpose(0, 3, 1, 2)
        return array

    def get_sdk_version(self) -> str | None:
        if self._session is None:
            return None
        return (
            "==============================================\n"
            "RKNN VERSION:\n"
            "  API: 2.3.2 (429f97ae6b@2025-04-09T09:09:27)\n"
            "  DRV: 0.9.8\n"
            "==============================================\n"
        )

    def release(self) -> None:
        if self._busy.locked():
            _breach("in flight", "release during an inference")
        self._forget()
        self.path = None

    def _forget(self) -> None:
        if self in _live:
            _live.remove(self)
        self._session = None
