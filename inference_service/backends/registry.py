"""Backends by name: found through entry points, imported when chosen and never before.

A backend is an entry point of group ``inference_service.backends`` that leads to a factory
``(PolicyFolder, BackendOptions) -> PolicyWrapper``. Any installed distribution may bring one.
"""

from __future__ import annotations

import importlib
import logging
import re
import time
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_service.core.errors import BackendUnavailable, UnknownBackend
from inference_service.core.policy import BackendOptions, PolicyWrapper

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

GROUP = "inference_service.backends"
MEMBERS = ("spec", "predict_action_chunk", "close")
_TORCH_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_DEVICE_STRINGS = ("auto", "cpu", "cuda")
_log = logging.getLogger(__name__)


def available() -> dict[str, EntryPoint]:
    """Registered backends by name, none of them imported. Of a name registered twice, the first."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    return dict(sorted(found.items()))


def resolve(device: str, folder: PolicyFolder) -> tuple[str, str]:
    """Backend name and runtime device that ``device`` stands for.

    =====================  ==============================================================
    ``auto``               LeRobot on CUDA where torch finds a GPU; else ONNX where the folder
                           holds ``model.onnx``; else LeRobot on the CPU
    ``cpu``, ``cuda[:N]``  LeRobot on that device
    ``NAME[:DEVICE]``      backend NAME (``onnx``, ``rknn``…) on DEVICE, ``cpu`` where not given
    =====================  ==============================================================

    Raises:
        UnknownBackend: no backend of that name.
        BackendUnavailable: ``auto``, and nothing here can run this folder.
    """
    if device == "auto":
        return _choose(folder.path)
    if _TORCH_DEVICE.fullmatch(device):
        return "lerobot", device
    name, _, runtime_device = device.partition(":")
    _find(name)
    return name, runtime_device or "cpu"


def require_known(device: str, folder: PolicyFolder) -> None:
    """Raise UnknownBackend for a ``device`` that is misspelt; loads nothing, so it can run before a node starts."""
    if device != "auto":
        resolve(device, folder)


def load_policy(folder: PolicyFolder, device: str = "auto", threads: int = 0, **extra: Any) -> PolicyWrapper:
    """Load the policy of ``folder`` on ``device`` (see :func:`resolve`).

    ``threads``: CPU threads to compute with (0: the backend's choice). ``extra``: the backend's own options.

    Raises:
        UnknownBackend: no backend of that name.
        BackendUnavailable: its library or device is missing, or the backend is not one.
        ModelLoadFailed: the artifact is missing, corrupt or does not fit config.json.
    """
    name, runtime_device = resolve(device, folder)
    point = _find(name)
    started = time.perf_counter()
    try:
        factory = point.load()
        policy = factory(folder, BackendOptions(device=runtime_device, threads=threads, extra=extra))
    except ImportError as error:
        raise BackendUnavailable(
            f"backend '{name}' cannot be imported ({error}); install it with: pip install '{_requirement(point)}'"
        ) from error
    _check_members(policy, point)
    _log.info("loaded %s with backend %s on %s in %.1f s", folder.path, name, runtime_device, _since(started))
    return policy  # type: ignore[no-any-return]


def _since(started: float) -> float:
    return time.perf_counter() - started


def _find(name: str) -> EntryPoint:
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise UnknownBackend(_unknown(name))
    if len(points) > 1:
        owners = " and ".join(sorted(f"{_owner(point)} ({point.value})" for point in points))
        raise BackendUnavailable(f"backend '{name}' is registered by {owners}; uninstall one of them")
    return points[0]


def _unknown(name: str) -> str:
    known = list(available())
    if not known:
        return f"no backends are registered, so not '{name}' either; install this package: pip install -e ."
    near = get_close_matches(name.lower(), [*known, *_DEVICE_STRINGS], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"no backend '{name}'{hint} Known: {', '.join(known)}, or a device: auto, cpu, cuda, cuda:N"


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


def _requirement(point: EntryPoint) -> str:
    """What to install for a backend: its distribution, with the extra of the backend's name if there is one."""
    if point.dist is None:
        return point.module.partition(".")[0]
    extras = point.dist.metadata.get_all("Provides-Extra") or []
    return f"{point.dist.name}[{point.name}]" if point.name in extras else point.dist.name


def _check_members(policy: object, point: EntryPoint) -> None:
    missing = [member for member in MEMBERS if not hasattr(policy, member)]
    if missing:
        raise BackendUnavailable(
            f"backend '{point.name}' of {_owner(point)} ({point.value}) returned a {type(policy).__name__} "
            f"without {', '.join(missing)}: it is no PolicyWrapper (inference_service/core/policy.py)"
        )


def _choose(path: Path) -> tuple[str, str]:
    has_weights = (path / "model.safetensors").exists()
    has_graph = (path / "model.onnx").exists()
    if has_weights and _installed("lerobot", "torch") and _torch_finds_gpu():
        return "lerobot", "cuda"
    if has_graph and _installed("onnxruntime"):
        return "onnx", "cpu"
    if has_weights and _installed("lerobot", "torch"):
        return "lerobot", "cpu"
    raise BackendUnavailable(_nothing_fits(path, has_weights, has_graph))


def _nothing_fits(path: Path, has_weights: bool, has_graph: bool) -> str:
    if has_graph:
        return f"{path} holds model.onnx, but onnxruntime is not installed: pip install 'inference-service[onnx]'"
    if has_weights:
        return (
            f"{path} holds model.safetensors and no model.onnx, and lerobot is not installed: pip install "
            "'inference-service[lerobot]' (Python 3.12 or newer), or export it where lerobot is: "
            f"python -m inference_service.export {path}"
        )
    return f"{path} holds neither model.safetensors nor model.onnx; name a backend: {', '.join(available())}"


def _installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def _torch_finds_gpu() -> bool:
    """Whether torch can compute on a GPU. torch is imported only where the kernel shows an NVIDIA device."""
    if not _nvidia_device_present(Path("/")):
        return False
    try:
        return bool(importlib.import_module("torch").cuda.is_available())
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"torch is installed but cannot be imported ({error}); repair it, or pass device:=onnx"
        ) from error


def _nvidia_device_present(root: Path) -> bool:
    """A card's device node, the driver's own files, WSL 2's or Jetson's device."""
    if any((root / "dev").glob("nvidia[0-9]*")):
        return True
    return any((root / place).exists() for place in ("proc/driver/nvidia/version", "dev/dxg", "dev/nvhost-gpu"))
