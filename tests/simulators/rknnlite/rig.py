"""Makes the stand-in for ``rknnlite`` importable, and reads what it journalled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LIBRARY = Path(__file__).resolve().parent
"""What belongs on PYTHONPATH, with RKNN_SIM naming a directory for settings and journal."""


class RKNNSimulator:
    """Settings and journal of one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.board = directory / "board"
        self.make_board()

    def make_board(self) -> None:
        """The files by which a board with a driver and a runtime library is known."""
        for file, content in {
            "proc/device-tree/compatible": b"rockchip,rk3588-evb\0rockchip,rk3588\0",
            "usr/lib/librknnrt.so": b"",
            "dev/dri/renderD129": b"",
        }.items():
            (self.board / file).parent.mkdir(parents=True, exist_ok=True)
            (self.board / file).write_bytes(content)

    def set(self, **settings: Any) -> None:
        """``faults``: {function: {"n-th call" or "n+": fault}}, and ``soc``."""
        (self.directory / "sim.json").write_text(json.dumps(settings))

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every rule broken so far."""
        file = self.directory / "journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def rules_broken(self) -> list[str]:
        return [entry["rule"] for entry in self.journal]

    @property
    def inferences(self) -> int:
        """Calls of ``inference`` in this process so far."""
        return int(sys.modules["rknnlite.api"]._calls[f"{self.directory}:inference"])

    @property
    def unreleased(self) -> list[Any]:
        """Objects of this process that hold a runtime."""
        module = sys.modules.get("rknnlite.api")
        return module.unreleased() if module else []


@contextmanager
def installed(directory: Path) -> Iterator[RKNNSimulator]:
    """``rknnlite.api`` importable while this lasts, on a board of its own."""
    simulator = RKNNSimulator(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LIBRARY)
        patch.setenv("RKNN_SIM", str(directory))
        patch.setattr("inference_service.backends.compiled.rknn_npu.BOARD", simulator.board)
        try:
            yield simulator
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "rknnlite"]:
                # Kept from reporting at exit what this test has looked at.
                if name == "rknnlite.api":
                    sys.modules[name]._live.clear()
                del sys.modules[name]


def tiny_model(
    file: Path,
    inputs: Mapping[str, Sequence[int]],
    output: Sequence[int] = (1, 4, 6),
    *,
    order: Sequence[str] | None = None,
    formats: Mapping[str, str] | None = None,
) -> Path:
    """An ONNX model of a few kilobytes whose output depends on every element of every float32 input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, parts, constants = [], [], []
    for number, (name, shape) in enumerate(inputs.items()):
        weights = rng.standard_normal((int(np.prod(shape)), int(np.prod(output)))).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"weights{number}"))
        nodes.append(helper.make_node("Flatten", [name], [f"flat{number}"], axis=0 if len(shape) == 1 else 1))
        nodes.append(helper.make_node("MatMul", [f"flat{number}", f"weights{number}"], [f"part{number}"]))
        parts.append(f"part{number}")
    constants.append(numpy_helper.from_array(np.asarray(output, np.int64), "shape"))
    nodes += [helper.make_node("Sum", parts, ["sum"]), helper.make_node("Reshape", ["sum", "shape"], ["action"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, output)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    properties = {"rknn.inputs": json.dumps(order)} if order else {}
    helper.set_model_props(model, properties | ({"rknn.formats": json.dumps(formats)} if formats else {}))
    onnx.save(model, file)
    return file
