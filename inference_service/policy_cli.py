"""``inference-service policy``: what a policy directory holds, whether it runs here, and whether it computes the same.

::

    inference-service policy inspect DIR                         family, inputs in order, artifacts, fingerprint
    inference-service policy check DIR --device ascend_om        load it, warm it up, run it
    inference-service policy parity DIR --device ascend_om --reference torch
                                                                 compare the actions of two backends

Parity is in normalised actions, as the model gives them; PI0.5 starts from the same noise on both sides.
``--observations FILE.npz`` takes recorded ones: one array per key, ``observation.images.*`` uint8 (N, H, W, 3),
``observation.state`` (N, D); without, they are random.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from inference_service.backends import registry
from inference_service.backends.compiled.adapters import adapter_for
from inference_service.backends.compiled.sidecar import FILES, ROLES, Bindings, Sidecar, load_sidecar
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import InferenceServiceError
from inference_service.core.files import read_json_object
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.policy_parity import (
    Difference,
    batches_of,
    chunks_of,
    random_observations,
    recorded_observations,
)

REFERENCES = {"torch": "cpu"}
"""Other names of devices, for ``--reference``."""

TOLERANCE = 1e-2
_TIMED_RUNS = 5


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 fine, 1 it does not load, run or agree, 2 wrong usage."""
    try:
        arguments = _parser().parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        folder = PolicyFolder.load(arguments.directory)
        return int(arguments.command(folder, arguments))
    except (InferenceServiceError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inference-service policy", description="Look at a policy directory.")
    commands = parser.add_subparsers(required=True, metavar="{inspect,check,parity}")
    inspect = _command(commands, "inspect", _inspect, "show what was understood of it")
    inspect.add_argument("--device", help="only this backend; its sidecar must be good")
    check = _command(commands, "check", _check, "load it, warm it up and run it")
    check.add_argument("--device", default="auto", help="as device:= of the nodes (default: auto)")
    parity = _command(commands, "parity", _parity, "compare the actions of two backends")
    parity.add_argument("--device", required=True, help="the backend to judge")
    parity.add_argument("--reference", default="torch", help="what it should compute like (default: torch)")
    parity.add_argument("--observations", type=Path, metavar="FILE.npz", help="recorded ones (default: random)")
    parity.add_argument("--count", type=_positive, default=8, help="how many observations (default: 8)")
    parity.add_argument("--tolerance", type=_tolerance, default=TOLERANCE, help=f"largest difference ({TOLERANCE})")
    parity.add_argument("--seed", type=int, default=0, help="of random observations (default: 0)")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("directory", type=Path, metavar="DIR", help="policy directory (config.json)")
    command.set_defaults(command=run)
    return command


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of 0 or more")
    return value


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def _inspect(folder: PolicyFolder, arguments: argparse.Namespace) -> int:
    config = folder.config
    _say(f"policy       {folder.path}")
    _say(f"family       {config.type}")
    _say(f"chunk        {config.chunk_size} actions of {config.action_dim}")
    _say(f"fingerprint  {folder.fingerprint}")
    _say("inputs")
    for index, (name, feature) in enumerate(config.input_features.items()):
        _say(f"  {index} {name:<32} {feature.type.value.lower():<8} {list(feature.shape)}")
    for name in ("model.safetensors", "model.onnx"):
        if (folder.path / name).is_file():
            _say(f"{name}: {_size(folder.path / name)}")
    return _inspect_backends(folder, arguments.device)


def _inspect_backends(folder: PolicyFolder, device: str | None) -> int:
    """0, or 1 when a sidecar that is there, or was asked for, is at fault."""
    names = _present(folder) if device is None else [registry.resolve(device, folder)[0]]
    status = 0
    for name in (name for name in names if name in FILES):
        try:
            _show_sidecar(folder, load_sidecar(folder, name))
        except InferenceServiceError as error:
            _say(f"backend {name}: not usable\n{textwrap.indent(str(error), '  ')}")
            status = 1
    return status


def _present(folder: PolicyFolder) -> list[str]:
    """Backends that the directory's files speak of."""
    names = []
    for file in dict.fromkeys(FILES.values()):
        if (folder.path / file).is_file():
            named = str(read_json_object(folder.path / file).get("backend", "")).lower().replace("-", "_")
            candidates = [name for name, sidecar in FILES.items() if sidecar == file]
            names.append(named if named in candidates else candidates[0])
    if "rknn" not in names and (folder.path / "model.rknn").is_file():
        names.append("rknn")
    return names


def _show_sidecar(folder: PolicyFolder, sidecar: Sidecar) -> None:
    _say(f"backend {sidecar.backend}: {sidecar.file.name if sidecar.file.is_file() else 'no sidecar, the usual place'}")
    _say(f"  execution  {' → '.join(ROLES[sidecar.backend, sidecar.policy_type])}")
    for role, artifact in sidecar.artifacts.items():
        digest = f"sha256 {artifact.sha256[:12]}… as declared" if artifact.sha256 else "no sha256 declared"
        _say(f"  artifact   {role}: {artifact.path} ({_size(artifact.path)}, {digest})")
    _say(f"  order      {_order(folder, sidecar)}")
    for role in sidecar.artifacts:
        _show_bindings(role, sidecar.bindings_of(role))
    if sidecar.denoising is not None:
        who = "the host" if sidecar.denoising.model_output == "velocity" else "the action expert"
        _say(f"  denoising  {sidecar.denoising.algorithm}, {who} integrates, {_steps(sidecar)} steps")
    for key, value in sidecar.backend_config.items():
        _say(f"  option     {key} = {value}")


def _order(folder: PolicyFolder, sidecar: Sidecar) -> str:
    """Of the first model's inputs, and who says so."""
    declared = sidecar.bindings_of(next(iter(sidecar.artifacts))).inputs
    if declared:
        return f"{', '.join(b.name for b in sorted(declared, key=lambda b: b.index))} (by the bindings)"
    return f"{', '.join(adapter_for(folder).order)} (by config.json; an artifact's own names come first)"


def _steps(sidecar: Sidecar) -> str:
    times = sidecar.denoising.timesteps if sidecar.denoising else None
    return str(len(times) - 1) if times else "num_inference_steps of config.json"


def _show_bindings(role: str, bindings: Bindings) -> None:
    for side, tensors in (("input", bindings.inputs), ("output", bindings.outputs)):
        for tensor in sorted(tensors, key=lambda tensor: tensor.index):
            shape = list(tensor.shape) if tensor.shape else None
            details = [str(part) for part in (tensor.dtype, shape, tensor.layout, tensor.runtime_name) if part]
            _say(f"  binding    {role} {side} {tensor.index} {tensor.name} {' '.join(details)}".rstrip())


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


@contextmanager
def _opened(folder: PolicyFolder, device: str) -> Iterator[PureInferenceEngine]:
    engine = PureInferenceEngine(registry.load_policy(folder, device))
    try:
        yield engine
    finally:
        engine.close()


def _check(folder: PolicyFolder, arguments: argparse.Namespace) -> int:
    observation = next(random_observations(folder, 1, seed=0))
    started = time.perf_counter()
    with _opened(folder, arguments.device) as engine:
        spec = engine.spec
        _say(f"loaded {spec.policy_type} with backend {spec.backend_type} in {time.perf_counter() - started:.1f} s")
        _say(f"versions: {', '.join(f'{name} {version}' for name, version in spec.versions.items())}")
        _say(f"warm-up: {engine.warm_up().inference_ms:.1f} ms")
        batch = TensorPreprocessor(folder)(observation).batch
        results = [engine.infer(batch) for _ in range(_TIMED_RUNS)]
    if any(not np.array_equal(result.action, results[0].action) for result in results):
        _say("NOT OK: the same observation gave different actions")
        return 1
    fastest = min(result.inference_ms for result in results)
    _say(f"ok: {spec.chunk_size} actions of {spec.action_dim}, {fastest:.1f} ms at best of {_TIMED_RUNS}")
    return 0


def _parity(folder: PolicyFolder, arguments: argparse.Namespace) -> int:
    observations = (
        recorded_observations(arguments.observations, arguments.count)
        if arguments.observations is not None
        else random_observations(folder, arguments.count, arguments.seed)
    )
    batches = batches_of(folder, observations, arguments.seed)
    # One at a time: a board's memory may not hold two.
    wanted = chunks_of(folder, REFERENCES.get(arguments.reference, arguments.reference), batches)
    got = chunks_of(folder, arguments.device, batches)
    difference = Difference()
    for chunk, expected in zip(got, wanted, strict=True):
        difference.add(chunk, expected)
    agrees = difference.largest <= arguments.tolerance
    _say(
        f"{arguments.device} against {arguments.reference} on {len(batches)} observations: "
        f"max {difference.largest:.2e}, mean {difference.mean:.2e}, cosine {difference.cosine:.8f}"
    )
    _say(f"{'ok' if agrees else 'NOT OK'}: tolerance {arguments.tolerance:.1e}")
    return 0 if agrees else 1
