"""Export a LeRobot ACT policy directory to ``model.onnx``: ``python -m inference_service.export DIR``.

The graph takes one input per feature of config.json, by the feature's name, float32, and gives ``action``
(batch, chunk_size, action_dim). Its batch axis is open, so that several robots share a forward pass; with
``--batch-of-one`` it is 1, for compilers that take no open axes. It computes in float32; weights that are exact in half
precision are stored so, which halves the file and changes no number. Needs the extras ``lerobot`` and
``export``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends import onnx as onnx_backend
from inference_service.backends.lerobot_load import load_lerobot_policy
from inference_service.backends.lerobot_torch import LeRobotPolicy
from inference_service.core.batch import Batch
from inference_service.core.errors import InferenceServiceError, ModelLoadFailed
from inference_service.core.policy import PolicySpec
from inference_service.core.policy_folder import PolicyFolder

FAMILIES = ("act",)
TOLERANCE = 1e-4
OPSET = 17
_PARITY_BATCHES = 5
# Below this many numbers a cast costs more than the bytes it saves.
_SMALLEST_HALVED = 1024


def export(directory: str | Path, *, batched: bool = True) -> float:
    """Write ``model.onnx`` into ``directory`` and return its largest difference from torch on random batches.

    ``batched``: leave the batch axis open. The file appears only when the difference is at most :data:`TOLERANCE`
    (normalised units).

    Raises:
        PolicyFolderError: no policy directory.
        ModelLoadFailed: a family that cannot be exported, weights that do not load, or a difference too large.
    """
    folder = PolicyFolder.load(directory)
    if folder.config.type not in FAMILIES:
        raise ModelLoadFailed(
            f"{folder.path / 'config.json'}: policy type '{folder.config.type}' cannot be exported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    policy = load_lerobot_policy(folder, "cpu")
    with tempfile.TemporaryDirectory(dir=folder.path) as scratch:
        candidate = Path(scratch) / onnx_backend.ARTIFACT
        _trace(policy, folder, candidate, batched)
        _finish(candidate, folder)
        difference = _largest_difference(policy, folder, candidate, (1, 3) if batched else (1,))
        if not difference <= TOLERANCE:
            raise ModelLoadFailed(
                f"{folder.path}: the exported graph differs from torch by {difference:.1e}, "
                f"more than {TOLERANCE:.0e}; nothing was written"
            )
        candidate.chmod(0o644)
        candidate.replace(folder.path / onnx_backend.ARTIFACT)
    return difference


def _random_batch(folder: PolicyFolder, rng: np.random.Generator, rows: int) -> dict[str, NDArray[np.float32]]:
    return {
        name: rng.standard_normal((rows, *feature.shape)).astype(np.float32)
        for name, feature in folder.config.input_features.items()
    }


def _trace(policy: Any, folder: PolicyFolder, target: Path, batched: bool) -> None:
    import torch

    names = list(folder.config.input_features)

    class ByPosition(torch.nn.Module):  # type: ignore[misc]
        """The exporter names positional inputs; LeRobot takes a dictionary."""

        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, *inputs: Any) -> Any:
            return self.policy.predict_action_chunk(dict(zip(names, inputs, strict=True)))

    # Of an axis of length one, tracing would make a constant.
    example_batch = _random_batch(folder, np.random.default_rng(0), rows=2 if batched else 1)
    example = tuple(torch.from_numpy(x) for x in example_batch.values())
    axes = {name: {0: "batch"} for name in (*names, onnx_backend.OUTPUT)} if batched else None
    with warnings.catch_warnings(), torch.no_grad():
        # Tracer warnings about Python branches on shapes: shapes are fixed here, and parity is checked below.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ByPosition().eval(),
            example,
            str(target),
            input_names=names,
            output_names=[onnx_backend.OUTPUT],
            opset_version=OPSET,
            dynamic_axes=axes,
            dynamo=False,
        )


def _finish(file: Path, folder: PolicyFolder) -> None:
    """Halve what can be halved, and record what the graph was made from."""
    import onnx

    model = onnx.load(file)
    _halve(model.graph)
    digest = onnx_backend.digest(folder.path / "model.safetensors")
    onnx.helper.set_model_props(model, {onnx_backend.WEIGHTS_DIGEST: digest, "policy_type": folder.config.type})
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _halve(graph: Any) -> None:
    """Store float32 initialisers that are exact in float16 as such, each widened by a Cast when the graph is loaded."""
    import onnx

    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if values.size < _SMALLEST_HALVED or not np.array_equal(halved.astype(np.float32), values):
            continue
        name = initializer.name
        initializer.CopyFrom(onnx.numpy_helper.from_array(halved, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _largest_difference(policy: Any, folder: PolicyFolder, file: Path, rows: Sequence[int]) -> float:
    """Over random batches of each of these numbers of ``rows``; torch computes every row by itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    reference = LeRobotPolicy(policy, _spec(folder))
    rng = np.random.default_rng(1)
    batches = [_random_batch(folder, rng, count) for count in rows for _ in range(_PARITY_BATCHES)]
    return max(_difference(reference, session.run, batch) for batch in batches)


def _difference(reference: LeRobotPolicy, run: Callable[..., Any], batch: dict[str, NDArray[np.float32]]) -> float:
    (got,) = run([onnx_backend.OUTPUT], batch)
    alone = [Batch({name: value[i : i + 1] for name, value in batch.items()}) for i in range(len(got))]
    wanted = np.stack([reference.predict_action_chunk(row) for row in alone])
    return float(np.abs(got - wanted).max())


def _spec(folder: PolicyFolder) -> PolicySpec:
    config = folder.config
    return PolicySpec(config.type, "lerobot", "cpu", config.chunk_size, config.action_dim, config.input_features)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m inference_service.export", description=__doc__)
    parser.add_argument("directory", type=Path, help="LeRobot policy directory (config.json, model.safetensors)")
    parser.add_argument("--batch-of-one", action="store_true", help="fix the batch axis: one robot per forward pass")
    arguments = parser.parse_args(argv)
    directory = arguments.directory
    try:
        difference = export(directory, batched=not arguments.batch_of_one)
    except ImportError as error:
        sys.stderr.write(f"{error}; install what exporting needs: pip install 'inference-service[lerobot,export]'\n")
        return 1
    except (InferenceServiceError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    artifact = directory / onnx_backend.ARTIFACT
    size = artifact.stat().st_size
    sys.stdout.write(f"{artifact}: {size / 1e6:.1f} MB, largest difference from torch {difference:.1e}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
