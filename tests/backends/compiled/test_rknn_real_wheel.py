"""The real, unmodified rknnlite wheel under emulation, over a stand-in for librknnrt.so: what it does, and that our
session lives with it. The stand-in of the other tests must answer every call alike.

Runs where ``tests/simulators/rknnlite/board/build`` was run.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.policies import make_plain_folder
from tests.simulators.rknnlite.board.calls import expected, outcomes
from tests.simulators.rknnlite.rig import LIBRARY, installed, tiny_model

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = LIBRARY / "board" / "program.py"
BOARD = Path(os.environ.get("RKNN_BOARD", "~/.cache/inference-service/rknn-board")).expanduser()
QEMU, PYTHON = BOARD / "tools/usr/bin/qemu-aarch64-static", BOARD / "root/usr/bin/python3.11"
SHAPES = {"state": (1, 6), "top": (1, 3, 8, 10)}
needs_board = pytest.mark.skipif(
    not (BOARD / "root/usr/lib/librknnrt.so").is_file(),
    reason=f"no emulated board in {BOARD}; make one with tests/simulators/rknnlite/board/build",
)


def affine_model(source: Path, file: Path) -> Path:
    """The tiny ONNX model ``source`` as the stand-in library's: inputs as the NPU has them, pictures NHWC."""
    import onnx
    from onnx import numpy_helper

    weights = {i.name: numpy_helper.to_array(i) for i in onnx.load(source).graph.initializer}
    state, top = (weights[f"weights{number}"] for number in range(2))
    channels, height, width = SHAPES["top"][1:]
    top = top.reshape(channels, height * width, -1).transpose(1, 0, 2).reshape(top.shape)
    header = b"STUBRKNN" + struct.pack("<II4I", 2, 3, 1, 4, 6, 0)
    header += struct.pack("<I4II", 2, 1, 6, 0, 0, 3) + struct.pack("<I4II", 4, 1, height, width, channels, 1)
    file.write_bytes(header + b"".join(np.ascontiguousarray(part.T, "<f4").tobytes() for part in (state, top)))
    return file


@pytest.fixture(scope="module")
def questions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"state": (3, 1, 6), "top": (3, 1, 8, 10, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, questions: dict[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tiny_model(tmp_path_factory.mktemp("onnx") / "m.onnx", SHAPES)))
    return [
        session.run(None, {"state": state, "top": top.transpose(0, 3, 1, 2)})[0]
        for state, top in zip(questions["state"], questions["top"], strict=True)
    ]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, questions: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the program says that ran there."""
    path = tmp_path_factory.mktemp("board")
    model = affine_model(tiny_model(path / "m.onnx", SHAPES), path / "m.rknn")
    policy = make_plain_folder(path / "policy", image=(8, 10), cameras=("top",), chunk_size=4)
    (policy / "model.rknn").symlink_to(model)
    np.savez(path / "inputs.npz", **questions)
    paths = os.pathsep.join(map(str, (BOARD / "site", ROOT, PROGRAM.parent)))
    command = [QEMU, "-L", BOARD / "root", "-E", f"PYTHONPATH={paths}", PYTHON, PROGRAM]
    done = subprocess.run(
        [*command, model, policy, path / "inputs.npz"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def close(one: Any, other: np.ndarray) -> bool:
    return bool(np.allclose(np.asarray(one), other, rtol=1e-4, atol=1e-4))


@needs_board
@pytest.mark.timeout(600)
def test_our_session_over_the_real_wheel(board: dict[str, Any], answers: list[np.ndarray]) -> None:
    """One emulated process for all of it: its start takes longest."""
    for case in ("sound", "pool", "run fails once"):
        *chunks, versions = board[case]
        assert len(chunks) == 3 and all(map(close, chunks, answers)), case
        assert versions["librknnrt"] == "2.3.2" and versions["rknpu driver"] == "0.9.8"
        assert versions["rknn-toolkit-lite2"] >= "2.3.2"
    first, refused, third, _ = board["run fails until rebuilt"]
    assert close(first, answers[0]) and refused.startswith("InferenceFailed: the NPU answers different inputs")
    assert close(third, answers[2])
    assert board["run never works"][0].startswith("ModelLoadFailed: ") and "zeros" in board["run never works"][0]
    first, failed, third, _ = board["no outputs"]
    assert close(first, answers[0]) and failed.startswith("InferenceFailed: RKNNLite returned no outputs")
    assert close(third, answers[2]), "the context was not rebuilt"
    for case in ("core mask refused", "out of memory", "damaged"):
        assert board[case][0].startswith("ModelLoadFailed: ") and "did not start" in board[case][0], case
    chunk, versions = board["backend"]
    assert close(chunk, answers[0][0]) and versions["npu cores"] == "auto"


@needs_board
@pytest.mark.timeout(600)
def test_the_real_wheel_answers_every_call_as_it_was_measured(board: dict[str, Any]) -> None:
    assert board["outcomes"] == expected()


@pytest.mark.breaks_rules(
    *(f"rknnlite {rule}" for rule in ("core mask", "data_format", "dtype", "finite", "inference", "input count")),
    *(f"rknnlite {rule}" for rule in ("layout", "list", "load", "rank", "target")),
)
def test_the_stand_in_answers_every_call_as_the_real_wheel_does(tmp_path: Path) -> None:
    with installed(tmp_path / "rknn") as simulator:
        from rknnlite.api import RKNNLite

        assert outcomes(RKNNLite, tiny_model(tmp_path / "m.rknn", SHAPES)) == expected()
        assert simulator.unreleased == []
