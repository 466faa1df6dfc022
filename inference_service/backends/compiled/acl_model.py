"""One ``.om`` on the device: described, with its buffers allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled import acl_codes
from inference_service.backends.compiled.acl_runtime import AclContext
from inference_service.backends.compiled.session import TensorSpec
from inference_service.core.errors import InferenceFailed, ModelLoadFailed

# Inputs that ATC adds for dynamic shapes and dynamic preprocessing.
_ADDED_BY_ATC = ("ascend_mbatch_shape_data", "ascend_dynamic_aipp_data")
_MAX_TENSORS = 64
Side = Literal["input", "output"]


@dataclass(frozen=True)
class DeviceTensor:
    """Device memory: ``pointer`` and ``size`` in bytes."""

    pointer: int
    size: int


class AclModel:
    """A loaded model in ``context``, which owns everything it allocates.

    ``given``: device memory by input index that is used as it is instead of new memory (another model's output).
    The context must be bound by the caller, here and before every call.

    Raises:
        ModelLoadFailed: missing, damaged, for another chip, of dynamic shape, or no memory for it.
    """

    def __init__(self, context: AclContext, path: Path) -> None:
        self.path = path
        self._context = context
        self._acl = context.acl
        self._id, self._desc = self._load()
        self.inputs = self._specs("input")
        self.outputs = self._specs("output")
        self.input_memory: tuple[DeviceTensor, ...] = ()
        self.output_memory: tuple[DeviceTensor, ...] = ()
        self._datasets = (0, 0)

    def _load(self) -> tuple[int, int]:
        mdl = self._acl.mdl
        desc = self._handle(mdl.create_desc(), "acl.mdl.create_desc")
        self._context.own("destroy_desc", lambda: mdl.destroy_desc(desc))
        model, code = mdl.load_from_file(str(self.path))
        self._check(code, "acl.mdl.load_from_file")
        self._context.own("unload", lambda: mdl.unload(model))
        self._check(mdl.get_desc(desc, model), "acl.mdl.get_desc")
        return model, desc

    def _specs(self, side: Side) -> tuple[TensorSpec, ...]:
        count = getattr(self._acl.mdl, f"get_num_{side}s")(self._desc)
        if not 1 <= count <= _MAX_TENSORS:
            raise ModelLoadFailed(f"{self.path}: the model description has {count} {side}s")
        return tuple(self._spec(side, index) for index in range(count))

    def _spec(self, side: Side, index: int) -> TensorSpec:
        mdl = self._acl.mdl
        name = getattr(mdl, f"get_{side}_name_by_index")(self._desc, index) or f"{side}_{index}"
        described, code = getattr(mdl, f"get_{side}_dims")(self._desc, index)
        self._check(code, f"acl.mdl.get_{side}_dims")
        shape = tuple(int(size) for size in described["dims"][: described["dimCount"]])
        if name in _ADDED_BY_ATC or any(size < 1 for size in shape):
            raise ModelLoadFailed(f"{self.path}: {side} '{name}' {list(shape)} is dynamic; convert with static shapes")
        number = getattr(mdl, f"get_{side}_data_type")(self._desc, index)
        if number not in acl_codes.DTYPES:
            raise ModelLoadFailed(f"{self.path}: {side} '{name}' has ACL data type {number}; convert with float32")
        layout = acl_codes.LAYOUTS.get(getattr(mdl, f"get_{side}_format")(self._desc, index), "plain")
        spec = TensorSpec(name, shape, acl_codes.DTYPES[number], layout if len(shape) == 4 else "plain")
        size = getattr(mdl, f"get_{side}_size_by_index")(self._desc, index)
        if size != spec.nbytes:
            raise ModelLoadFailed(
                f"{self.path}: {side} {spec} takes {size} bytes, expected {spec.nbytes}; convert without AIPP"
            )
        return spec

    def allocate(self, given: Mapping[int, DeviceTensor] | None = None) -> None:
        """Device memory and data buffers for every input and output, once; see the class for ``given``.

        Raises:
            ModelLoadFailed: out of memory, or given memory of another size.
        """
        given = given or {}
        memory = [given.get(index) or self._malloc(spec.nbytes) for index, spec in enumerate(self.inputs)]
        for spec, tensor in zip(self.inputs, memory, strict=True):
            if tensor.size != spec.nbytes:
                raise ModelLoadFailed(
                    f"{self.path}: input {spec} takes {spec.nbytes} bytes, the tensor linked to it has {tensor.size}"
                )
        self.input_memory = tuple(memory)
        self.output_memory = tuple(self._malloc(spec.nbytes) for spec in self.outputs)
        self._datasets = (self._dataset(self.input_memory), self._dataset(self.output_memory))

    def _malloc(self, size: int) -> DeviceTensor:
        rt = self._acl.rt
        pointer, code = rt.malloc(size, acl_codes.MALLOC_HUGE_FIRST)
        self._check(code, f"acl.rt.malloc({size})")
        self._context.own("free", lambda: rt.free(pointer))
        return DeviceTensor(pointer, size)

    def _dataset(self, memory: tuple[DeviceTensor, ...]) -> int:
        acl = self._acl
        buffers = [self._buffer(tensor) for tensor in memory]
        dataset = self._handle(acl.mdl.create_dataset(), "acl.mdl.create_dataset")
        self._context.own("destroy_dataset", lambda: acl.mdl.destroy_dataset(dataset))
        for buffer in buffers:
            _, code = acl.mdl.add_dataset_buffer(dataset, buffer)
            self._check(code, "acl.mdl.add_dataset_buffer")
        return dataset

    def _buffer(self, tensor: DeviceTensor) -> int:
        acl = self._acl
        buffer = self._handle(acl.create_data_buffer(tensor.pointer, tensor.size), "acl.create_data_buffer")
        self._context.own("destroy_data_buffer", lambda: acl.destroy_data_buffer(buffer))
        return buffer

    def write(self, index: int, array: NDArray[Any]) -> None:
        """Copy ``array``, of input ``index``'s shape and dtype, to the device.

        Raises:
            InferenceFailed: another shape or dtype, or the copy failed.
        """
        spec, target = self.inputs[index], self.input_memory[index]
        if array.shape != spec.shape or array.dtype != spec.dtype or not array.flags.c_contiguous:
            raise InferenceFailed(f"input {spec} was given {array.dtype.name} {list(array.shape)}")
        source = self._host_pointer(array)
        code = self._acl.rt.memcpy(target.pointer, target.size, source, array.nbytes, acl_codes.HOST_TO_DEVICE)
        self._context.check(code, f"copying '{spec.name}' to the device: acl.rt.memcpy")

    def read(self, index: int) -> NDArray[Any]:
        """Output ``index``, copied from the device into a new array."""
        spec, source = self.outputs[index], self.output_memory[index]
        array = np.empty(spec.shape, spec.dtype)
        target = self._host_pointer(array)
        code = self._acl.rt.memcpy(target, array.nbytes, source.pointer, source.size, acl_codes.DEVICE_TO_HOST)
        self._context.check(code, f"copying '{spec.name}' from the device: acl.rt.memcpy")
        return array

    def feed_back(self, output: int, index: int) -> None:
        """Copy output ``output`` to input ``index`` on the device; both of equal size."""
        source, target = self.output_memory[output], self.input_memory[index]
        code = self._acl.rt.memcpy(target.pointer, target.size, source.pointer, source.size, acl_codes.DEVICE_TO_DEVICE)
        self._context.check(code, "copying on the device: acl.rt.memcpy")

    def execute(self) -> None:
        """Compute the outputs from the inputs, and wait for them.

        Raises:
            InferenceFailed: the device refused or broke.
        """
        self._context.check(self._acl.mdl.execute(self._id, *self._datasets), f"{self.path.name}: acl.mdl.execute")

    def _host_pointer(self, array: NDArray[Any]) -> int:
        """Address of ``array``'s data. The caller keeps ``array`` alive while the address is in use."""
        to_pointer = getattr(self._acl.util, "numpy_to_ptr", None)
        return int(to_pointer(array)) if to_pointer is not None else array.ctypes.data

    def _check(self, code: int, call: str) -> None:
        self._context.check(code, f"{self.path}: {call}", ModelLoadFailed)

    def _handle(self, handle: int, call: str) -> int:
        if not handle:
            raise ModelLoadFailed(f"{self.path}: {call} returned no handle; {self._acl.get_recent_err_msg() or ''}")
        return handle
