"""``acl.mdl``: models, their descriptions, datasets and execution."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from .state import Model, Refused, api, simulator

_FLOAT, _FORMAT_ND, _FORMAT_NCHW = 0, 2, 0
_DTYPES: dict[str, tuple[int, Any]] = {
    "tensor(float)": (_FLOAT, np.float32),
    "tensor(float16)": (1, np.float16),
    "tensor(int8)": (2, np.int8),
    "tensor(int32)": (3, np.int32),
    "tensor(uint8)": (4, np.uint8),
    "tensor(int64)": (9, np.int64),
    "tensor(double)": (11, np.float64),
    "tensor(bool)": (12, np.bool_),
}


def _nothing(code: int) -> tuple[int, int]:
    return 0, code


def _require_init() -> None:
    if not simulator.initialised:
        raise Refused(145001, "called before init or after finalize", rule=1)


def _model(model: int) -> Model:
    known = simulator.models.get(model)
    if known is None:
        raise Refused(145003, f"unknown model {model}", rule=12)
    return known


@api("mdl.load_from_file", fail=_nothing)
def load_from_file(path: str) -> tuple[int, int]:
    _require_init()
    context = simulator.current()
    if not Path(path).is_file():
        raise Refused(145002, f"{path}: no such file")
    session = _open(path)
    number = max(simulator.models, default=0) + 1
    simulator.models[number] = Model(session, context, session.get_inputs(), session.get_outputs())
    return number, 0


def _open(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        # As a converter for a board does with the batch axis that an export leaves open.
        options.add_free_dimension_override_by_name("batch", 1)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Refused(545001, f"model does not load: {error}") from error
    soc = session.get_modelmeta().custom_metadata_map.get("soc_version")
    if soc and soc != simulator.soc:
        raise Refused(545001, f"model is for {soc}, this is {simulator.soc}")
    return session


@api("mdl.unload")
def unload(model: int) -> int:
    _require_init()
    context = simulator.current()
    if _model(model).context != context:
        raise Refused(107003, "unload in another context than load", rule=6)
    del simulator.models[model]
    return 0


@api("mdl.create_desc", fail=lambda _: 0)
def create_desc() -> int:
    handle = simulator.handle()
    simulator.descs[handle] = 0
    return handle


@api("mdl.get_desc")
def get_desc(desc: int, model: int) -> int:
    _require_init()
    _model(model)
    if desc not in simulator.descs:
        raise Refused(100000, "unknown description", rule=12)
    simulator.descs[desc] = model
    return 0


@api("mdl.destroy_desc")
def destroy_desc(desc: int) -> int:
    if simulator.descs.pop(desc, None) is None:
        raise Refused(100000, "unknown description", rule=12)
    return 0


def _nodes(desc: int, side: str) -> list[Any]:
    model = simulator.models.get(simulator.descs.get(desc, 0))
    if model is None:
        raise Refused(100000, "description of no live model", rule=12)
    return model.inputs if side == "inputs" else model.outputs


def _node(desc: int, side: str, index: int) -> Any:
    nodes = _nodes(desc, side)
    if not 0 <= index < len(nodes):
        raise Refused(100000, f"index {index} of {len(nodes)} {side}", rule=16)
    return nodes[index]


def _dims(node: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in node.shape]


def _size(node: Any) -> int:
    """Bytes; 0 for a dynamic shape."""
    dims = _dims(node)
    return 0 if -1 in dims else int(np.prod(dims)) * np.dtype(_DTYPES[node.type][1]).itemsize


def _described(node: Any) -> dict[str, Any]:
    return {"name": node.name, "dimCount": len(node.shape), "dims": _dims(node)}


@api("mdl.get_num_inputs", fail=lambda _: 0)
def get_num_inputs(desc: int) -> int:
    return len(_nodes(desc, "inputs"))


@api("mdl.get_num_outputs", fail=lambda _: 0)
def get_num_outputs(desc: int) -> int:
    return len(_nodes(desc, "outputs"))


@api("mdl.get_input_size_by_index", fail=lambda _: 0)
def get_input_size_by_index(desc: int, index: int) -> int:
    return _size(_node(desc, "inputs", index))


@api("mdl.get_output_size_by_index", fail=lambda _: 0)
def get_output_size_by_index(desc: int, index: int) -> int:
    return _size(_node(desc, "outputs", index))


@api("mdl.get_input_name_by_index", fail=lambda _: "")
def get_input_name_by_index(desc: int, index: int) -> str:
    return str(_node(desc, "inputs", index).name)


@api("mdl.get_output_name_by_index", fail=lambda _: "")
def get_output_name_by_index(desc: int, index: int) -> str:
    return f"Node_Output:{index}:{_node(desc, 'outputs', index).name}"


@api("mdl.get_input_data_type", fail=lambda _: -1)
def get_input_data_type(desc: int, index: int) -> int:
    return _DTYPES[_node(desc, "inputs", index).type][0]


@api("mdl.get_output_data_type", fail=lambda _: -1)
def get_output_data_type(desc: int, index: int) -> int:
    return _DTYPES[_node(desc, "outputs", index).type][0]


@api("mdl.get_input_format", fail=lambda _: -1)
def get_input_format(desc: int, index: int) -> int:
    node = _node(desc, "inputs", index)
    return _FORMAT_NCHW if len(node.shape) == 4 and node.shape[1] == 3 else _FORMAT_ND


@api("mdl.get_output_format", fail=lambda _: -1)
def get_output_format(desc: int, index: int) -> int:
    _node(desc, "outputs", index)
    return _FORMAT_ND


@api("mdl.get_input_dims", fail=lambda code: ({}, code))
def get_input_dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
    return _described(_node(desc, "inputs", index)), 0


@api("mdl.get_output_dims", fail=lambda code: ({}, code))
def get_output_dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
    return _described(_node(desc, "outputs", index)), 0


@api("mdl.get_input_index_by_name", fail=_nothing)
def get_input_index_by_name(desc: int, name: str) -> tuple[int, int]:
    names = [node.name for node in _nodes(desc, "inputs")]
    if name not in names:
        raise Refused(100000, f"no input {name}")
    return names.index(name), 0


@api("mdl.create_dataset", fail=lambda _: 0)
def create_dataset() -> int:
    handle = simulator.handle()
    simulator.datasets[handle] = []
    return handle


@api("mdl.add_dataset_buffer", fail=_nothing)
def add_dataset_buffer(dataset: int, buffer: int) -> tuple[int, int]:
    if dataset not in simulator.datasets or buffer not in simulator.buffers:
        raise Refused(100000, "unknown dataset or data buffer", rule=11)
    simulator.datasets[dataset].append(buffer)
    return dataset, 0


@api("mdl.destroy_dataset")
def destroy_dataset(dataset: int) -> int:
    if simulator.datasets.pop(dataset, None) is None:
        raise Refused(100000, "unknown dataset", rule=11)
    return 0


@api("mdl.execute")
def execute(model: int, inputs: int, outputs: int) -> int:
    _run(model, inputs, outputs)()
    return 0


@api("mdl.execute_async")
def execute_async(model: int, inputs: int, outputs: int, stream: int) -> int:
    from .rt import _stream

    known = _stream(stream)
    if known.context != simulator.current():
        raise Refused(107003, "the stream is of another context", rule=6)
    finish = _run(model, inputs, outputs)
    blocks = [simulator.block_at(b.pointer, b.size, "output")[0] for b in _buffers(outputs, "outputs")]
    for block in blocks:
        block.pending = stream

    def deliver() -> None:
        for block in blocks:
            block.pending = 0
        finish()

    known.deferred.append(deliver)
    return 0


def _run(model: int, inputs: int, outputs: int) -> Any:
    """Compute now; what is returned puts the results into device memory."""
    _require_init()
    context, known, thread = simulator.current(), _model(model), threading.get_ident()
    if known.context != context:
        raise Refused(107003, "execute in another context than load", rule=6)
    with simulator.lock:
        if known.busy:
            simulator.violation(13, f"acl.mdl.execute of model {model} in two threads at once")
        feeds = {
            node.name: _array(node, block, offset)
            for node, (block, offset) in zip(known.inputs, _memory(known.inputs, inputs, "inputs"), strict=True)
        }
        targets = _memory(known.outputs, outputs, "outputs")
        known.busy = True
    try:
        results = known.session.run(None, feeds)
    except Exception as error:
        raise Refused(507011, f"model failed: {error}") from error
    finally:
        known.busy = False

    def deliver() -> None:
        with simulator.lock:
            for result, (block, offset) in zip(results, targets, strict=True):
                data = np.ascontiguousarray(result).tobytes()
                block.data[offset : offset + len(data)] = data
                block.written[offset : offset + len(data)] = b"\1" * len(data)
                block.thread = thread

    return deliver


def _buffers(dataset: int, side: str) -> list[Any]:
    if dataset not in simulator.datasets:
        raise Refused(100000, f"the dataset of {side} was destroyed or never was", rule=11)
    if not all(handle in simulator.buffers for handle in simulator.datasets[dataset]):
        raise Refused(100000, f"a data buffer of {side} was destroyed", rule=17)
    return [simulator.buffers[handle] for handle in simulator.datasets[dataset]]


def _memory(nodes: list[Any], dataset: int, side: str) -> list[tuple[Any, int]]:
    buffers = _buffers(dataset, side)
    if len(buffers) != len(nodes):
        raise Refused(145000, f"{len(buffers)} {side}, the model has {len(nodes)}", rule=11)
    for node, buffer in zip(nodes, buffers, strict=True):
        if buffer.size != _size(node):
            raise Refused(145000, f"'{node.name}' has {buffer.size} bytes, the model wants {_size(node)}", rule=11)
        if buffer.pointer % 64:
            simulator.violation(21, f"'{node.name}' is at {buffer.pointer:#x}")
    try:
        return [simulator.block_at(buffer.pointer, buffer.size, side) for buffer in buffers]
    except Refused as refused:
        raise Refused(100000, f"memory of {side} was freed: {refused}", rule=11) from refused


def _array(node: Any, block: Any, offset: int) -> np.ndarray:
    dtype, size = np.dtype(_DTYPES[node.type][1]), _size(node)
    if block.written.find(0, offset, offset + size) != -1:
        simulator.violation(15, f"acl.mdl.execute: input '{node.name}' was never written")
    if block.pending:
        simulator.violation(14, f"acl.mdl.execute: input '{node.name}' awaits synchronize_stream")
    if block.thread not in (0, threading.get_ident()):
        simulator.violation(13, f"acl.mdl.execute: input '{node.name}' was written by another thread since")
    block.thread = 0
    return np.frombuffer(bytes(block.data[offset : offset + size]), dtype).reshape(node.shape)
