"""ONNX graphs on ONNX Runtime: ``model.onnx`` beside LeRobot's files, no torch needed.

Graph inputs carry the names of the policy's input features, the output is ``action``; with an open batch axis several
robots share a pass, with one of length 1 they take turns. Made by ``python -m inference_service.export``.

Extra options: ``providers``, a list of execution providers in ONNX Runtime's own form, instead of what the device says;
``max_batch`` (default 8), robots in one pass.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.options import available_cpus, check_extra
from inference_service.core.batch import AffineImage, Batch, FeatureType, Float32, Value, materialise
from inference_service.core.errors import BackendError, BackendUnavailable, InferenceFailed, ModelLoadFailed
from inference_service.core.policy import NO_CONTEXT, BackendOptions, InferenceContext, PolicySpec

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

ARTIFACT = "model.onnx"
OUTPUT = "action"
# Metadata key of the graph: SHA-256 of the model.safetensors that it was exported from.
WEIGHTS_DIGEST = "weights_sha256"
_MAX_DEFAULT_THREADS = 8
DEFAULT_BATCH = 8
_LANGUAGE_PREFIX = "observation.language."
_FLOATS: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
_INTEGERS: dict[str, np.dtype[Any]] = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(bool),
}


class OnnxPolicy:
    """A :class:`~inference_service.core.policy.PolicyWrapper`, and where the batch axis is open a
    :class:`~inference_service.core.policy.BatchingPolicy`, over one ONNX Runtime session."""

    def __init__(self, session: Any, spec: PolicySpec) -> None:
        self._session: Any | None = session
        self._spec = spec
        self._dtypes = {node.name: (_FLOATS | _INTEGERS)[node.type] for node in session.get_inputs()}

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        return self._run([batch])[0]

    def predict_action_chunks(self, requests: Sequence[tuple[Batch, InferenceContext]]) -> Sequence[Float32]:
        return self._run([batch for batch, _ in requests])

    def _run(self, batches: Sequence[Batch]) -> Sequence[Float32]:
        if self._session is None:
            raise InferenceFailed("this policy was closed")
        for batch in batches:
            if missing := self._dtypes.keys() - batch.keys():
                raise InferenceFailed(f"the batch lacks {_names(missing)}, it has {_names(batch)}")
        try:
            feeds = {name: _joined([batch[name] for batch in batches], dtype) for name, dtype in self._dtypes.items()}
            (actions,) = self._session.run([OUTPUT], feeds)
        except Exception as error:
            raise InferenceFailed(f"ONNX Runtime on {self._spec.device} failed: {error}") from error
        return list(np.asarray(actions, np.float32))

    def close(self) -> None:
        self._session = None


def _joined(values: Sequence[Value], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One array (len(values), ...); pictures are turned into floats in their place."""
    first = values[0]
    if len(values) == 1:
        return materialise(first).astype(dtype, copy=False)
    joined = np.empty((len(values), *first.shape[1:]), dtype)  # type: ignore[union-attr]  # a graph takes no strings
    for row, value in enumerate(values):
        if isinstance(value, AffineImage) and dtype == np.float32:
            value.materialise(joined[row : row + 1])
        else:
            joined[row] = materialise(value)[0]
    return joined


def load(folder: PolicyFolder, options: BackendOptions) -> OnnxPolicy:
    """Open ``model.onnx`` of ``folder``. ``options.device``: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelLoadFailed: the graph is missing, corrupt, does not fit config.json or is older than the weights.
        BackendUnavailable: the execution provider is not in this ONNX Runtime, or did not start.
    """
    import onnxruntime

    check_extra("onnx", options.extra, {"providers", "max_batch"})
    max_batch = options.extra.get("max_batch", DEFAULT_BATCH)
    if not isinstance(max_batch, int) or isinstance(max_batch, bool) or max_batch < 1:
        raise BackendError(f"backend 'onnx': option 'max_batch' must be a number from 1 on, found {max_batch!r:.60}")
    artifact = folder.path / ARTIFACT
    if not artifact.is_file():
        raise ModelLoadFailed(
            f"{artifact} is missing; where lerobot is installed, make it with: "
            f"python -m inference_service.export {folder.path}"
        )
    session = _open(onnxruntime, artifact, options)
    _check_graph(session, artifact, folder)
    _check_source(session, artifact, folder.path / "model.safetensors")
    spec = PolicySpec(
        policy_type=folder.config.type,
        backend_type="onnx",
        device=options.device,
        chunk_size=folder.config.chunk_size,
        action_dim=folder.config.action_dim,
        input_features=folder.config.input_features,
        versions={"onnxruntime": onnxruntime.__version__, "provider": session.get_providers()[0]},
        max_batch=max_batch if _takes_batches(session) else 1,
    )
    return OnnxPolicy(session, spec)


def _takes_batches(session: Any) -> bool:
    """Whether the first axis of every input and output is open."""
    return not any(isinstance(node.shape[0], int) for node in (*session.get_inputs(), *session.get_outputs()))


def _open(onnxruntime: Any, artifact: Path, options: BackendOptions) -> Any:
    providers = options.extra.get("providers") or _providers(options.device)
    wanted = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    present = onnxruntime.get_available_providers()
    if absent := [name for name in wanted if name not in present]:
        raise BackendUnavailable(
            f"this onnxruntime lacks {', '.join(absent)}, it has {', '.join(present)}; "
            "for CUDA: pip install onnxruntime-gpu in place of onnxruntime"
        )
    try:
        session = onnxruntime.InferenceSession(str(artifact), _session_options(onnxruntime, options.threads), providers)
    except Exception as error:
        raise ModelLoadFailed(f"{artifact}: ONNX Runtime cannot open it: {error}") from error
    if silent := [name for name in wanted if name not in session.get_providers()]:
        raise BackendUnavailable(
            f"{', '.join(silent)} did not start (its log line above says why); are CUDA and cuDNN installed?"
        )
    return session


def _providers(device: str) -> list[Any]:
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise BackendUnavailable(f"backend 'onnx' has no device '{device}'; use onnx, onnx:cuda or onnx:cuda:N")
    if device == "cpu":
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": int(match[1] or 0)}), "CPUExecutionProvider"]


def _session_options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(available_cpus(), _MAX_DEFAULT_THREADS)
    options.inter_op_num_threads = 1
    # Idle workers that spin would take the cores from the robot's control tick.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_graph(session: Any, artifact: Path, folder: PolicyFolder) -> None:
    expected = {
        name: (1, *feature.shape)
        for name, feature in folder.config.input_features.items()
        if feature.type is not FeatureType.LANGUAGE
    }
    inputs = {node.name: node for node in session.get_inputs()}
    if missing := expected.keys() - inputs.keys():
        raise ModelLoadFailed(f"{artifact} has no input {_names(missing)}, it has {_names(inputs)}")
    for name, node in inputs.items():
        if name in expected:
            _check_node(node, expected[name], _FLOATS, artifact, "input")
        elif not name.startswith(_LANGUAGE_PREFIX):
            raise ModelLoadFailed(f"{artifact} wants input '{name}', which config.json does not declare")
        elif node.type not in _INTEGERS:
            raise ModelLoadFailed(f"{artifact}: input '{name}' is {node.type}, expected one of {_names(_INTEGERS)}")
    outputs = {node.name: node for node in session.get_outputs()}
    if OUTPUT not in outputs:
        raise ModelLoadFailed(f"{artifact} has no output '{OUTPUT}', it has {_names(outputs)}")
    _check_node(outputs[OUTPUT], (1, folder.config.chunk_size, folder.config.action_dim), _FLOATS, artifact, "output")


def _check_node(node: Any, expected: tuple[int, ...], types: dict[str, Any], artifact: Path, kind: str) -> None:
    """``node.shape`` holds numbers, or names and None for axes left open."""
    if node.type not in types:
        raise ModelLoadFailed(f"{artifact}: {kind} '{node.name}' is {node.type}, expected one of {_names(types)}")
    fits = len(node.shape) == len(expected) and all(
        not isinstance(actual, int) or actual == wanted for actual, wanted in zip(node.shape, expected, strict=True)
    )
    if not fits:
        raise ModelLoadFailed(
            f"{artifact}: {kind} '{node.name}' has shape {tuple(node.shape)}, config.json says {expected}"
        )


def _check_source(session: Any, artifact: Path, weights: Path) -> None:
    """A graph that says which weights it was made from must not stand beside others."""
    recorded = session.get_modelmeta().custom_metadata_map.get(WEIGHTS_DIGEST)
    if recorded and weights.is_file() and recorded != digest(weights):
        raise ModelLoadFailed(
            f"{artifact} was exported from other weights than {weights.name} beside it; export again: "
            f"python -m inference_service.export {artifact.parent}"
        )


def digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
