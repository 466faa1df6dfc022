"""LeRobot's own policy classes on torch, CPU or CUDA.

Serves families whose ``predict_action_chunk`` needs nothing but the batch it is given. Loading never
touches the network: the weights come from the folder, and the ImageNet weights that a configuration
may name for its backbone are never asked for.

Extra options: ``seed`` (int, default 0) of the noise that a flow or diffusion policy starts from, the
same for every request, so that equal batches give equal chunks; ``strict`` (bool, default true) refuses
weights that lack a parameter or hold a foreign one.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_service.backends.options import available_cpus, check_extra
from inference_service.core.batch import AffineImage, Batch, Float32, Value, materialise
from inference_service.core.errors import BackendUnavailable, InferenceFailed, ModelLoadFailed
from inference_service.core.policy import NO_CONTEXT, BackendOptions, InferenceContext, PolicySpec

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

# Families of lerobot 0.6.1 read one by one: predict_action_chunk uses nothing that an earlier call left behind.
STATELESS = frozenset(
    {"act", "pi0", "pi05", "pi0_fast", "smolvla", "xvla", "vla_jepa", "wall_x", "eo1", "evo1", "fastwam", "groot"}
)
_QUEUE = "its predict_action_chunk reads a queue of past observations that only select_action fills"
STATEFUL = {
    "diffusion": _QUEUE,
    "vqbet": _QUEUE,
    "tdmpc": _QUEUE,
    "multi_task_dit": _QUEUE,
    "lingbot_va": "it keeps a cache of keys, values and executed actions between calls",
    "molmoact2": "it keeps a generator between calls",
    "gaussian_actor": "it has no predict_action_chunk",
}
_DETERMINISTIC = frozenset({"act"})
_OUT_OF_MEMORY = (
    "the GPU is out of memory; end other processes on it (nvidia-smi lists them), choose another one "
    "(device:=cuda:N), or run on the CPU (device:=cpu or device:=onnx)"
)


class LeRobotPolicy:
    """A :class:`~inference_service.core.policy.PolicyWrapper` over a LeRobot policy."""

    def __init__(self, policy: Any, spec: PolicySpec, seed: int = 0) -> None:
        import torch

        self._torch = torch
        self._policy: Any | None = policy
        self._spec = spec
        self._seed = seed
        self._device = torch.device(spec.device)
        self._tables: dict[Any, Any] = {}

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        if self._policy is None:
            raise InferenceFailed("this policy was closed")
        try:
            with self._torch.inference_mode(), self._fixed_noise(), self._mixed_precision():
                actions = self._policy.predict_action_chunk({key: self._to_device(v) for key, v in batch.items()})
                chunk: Float32 = actions[0].float().cpu().numpy()
        except self._torch.cuda.OutOfMemoryError as error:
            self._torch.cuda.empty_cache()
            raise InferenceFailed(f"{_OUT_OF_MEMORY}. {error}") from error
        except Exception as error:
            raise InferenceFailed(f"{self._spec.policy_type} on {self._device} failed: {error}") from error
        return chunk

    def close(self) -> None:
        if self._policy is None:
            return
        self._policy = None
        self._tables.clear()
        if self._device.type == "cuda":
            gc.collect()
            self._torch.cuda.empty_cache()

    def _fixed_noise(self) -> AbstractContextManager[Any]:
        if self._spec.policy_type in _DETERMINISTIC:
            return contextlib.nullcontext()
        return _seeded(self._torch, self._device, self._seed)

    def _mixed_precision(self) -> AbstractContextManager[Any]:
        """As LeRobot's own ``predict_action``: only on CUDA, only where the configuration asks."""
        if self._device.type == "cuda" and self._policy is not None and self._policy.config.use_amp:
            return self._torch.autocast("cuda")  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    def _to_device(self, value: Value) -> Any:
        if isinstance(value, list):
            return value
        if isinstance(value, self._torch.Tensor):
            return value.to(self._device)
        if isinstance(value, AffineImage) and self._device.type != "cpu":
            pixels = self._upload(value.pixels)
            return apply_table(self._torch, pixels, self._table(value))
        array = materialise(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        return self._upload(array)

    def _upload(self, array: Any) -> Any:
        # torch shares the memory of an array, and has no read-only tensors: what must not change is copied.
        shared = np.ascontiguousarray(array) if array.flags.writeable else np.array(array)
        tensor = self._torch.from_numpy(shared)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)

    def _table(self, image: AffineImage) -> Any:
        channels = image.pixels.shape[2]
        key = (image.norm, channels)
        if key not in self._tables:
            self._tables[key] = self._upload(image.norm.table(channels))
        return self._tables[key]


def apply_table(torch: Any, pixels: Any, table: Any) -> Any:
    """(1, C, H, W) float32 from uint8 ``pixels`` (H, W, C) and ``table`` (256, C) float32, on their device.

    A look-up, not arithmetic: equal to the CPU's result bit for bit on any device.
    """
    channels = table.shape[1]
    index = pixels.to(torch.int64) * channels + torch.arange(channels, device=pixels.device)
    return table.flatten()[index.permute(2, 0, 1)].unsqueeze(0)


@contextlib.contextmanager
def _seeded(torch: Any, device: Any, seed: int) -> Any:
    """torch's generators seeded inside, as they were outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def load(folder: PolicyFolder, options: BackendOptions) -> LeRobotPolicy:
    """Load LeRobot's policy of ``folder``. ``options.device``: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelLoadFailed: weights missing, corrupt or foreign, or a family that needs earlier observations.
        BackendUnavailable: no such GPU.
    """
    check_extra("lerobot", options.extra, {"seed", "strict"})
    _check_family(folder)
    # libgomp spins at its barriers, which starves a control tick on the same cores; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import lerobot
    import torch

    device = _device(torch, options.device)
    _set_threads(torch, options.threads)
    policy = load_lerobot_policy(folder, device, strict=bool(options.extra.get("strict", True)))
    spec = PolicySpec(
        policy_type=folder.config.type,
        backend_type="lerobot",
        device=device,
        chunk_size=folder.config.chunk_size,
        action_dim=folder.config.action_dim,
        input_features=folder.config.input_features,
        versions={"lerobot": lerobot.__version__, "torch": torch.__version__},
    )
    return LeRobotPolicy(policy, spec, seed=int(options.extra.get("seed", 0)))


def _check_family(folder: PolicyFolder) -> None:
    family, config = folder.config.type, folder.path / "config.json"
    if family in STATEFUL:
        raise ModelLoadFailed(f"{config}: policy type '{family}' cannot be served without state: {STATEFUL[family]}")
    if family not in STATELESS:
        raise ModelLoadFailed(f"{config}: policy type '{family}' is not known to be stateless; known: {_known()}")
    if folder.config.raw.get("use_visual_memory") or folder.config.raw.get("use_proprioceptive_memory"):
        raise ModelLoadFailed(f"{config}: '{family}' with memory keeps past observations between calls")
    if folder.config.raw.get("use_peft"):
        raise ModelLoadFailed(f"{config}: use_peft needs its base model from elsewhere; merge the adapter first")


def _known() -> str:
    return ", ".join(sorted(STATELESS))


def _device(torch: Any, wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    name, _, index = wanted.partition(":")
    if name != "cuda" or (index and not index.isdigit()):
        raise BackendUnavailable(f"backend 'lerobot' has no device '{wanted}'; use cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"device '{wanted}': torch {torch.__version__} finds no GPU; use cpu, onnx or auto")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise BackendUnavailable(f"device '{wanted}': this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}")
    return f"cuda:{index or torch.cuda.current_device()}"


def _set_threads(torch: Any, threads: int) -> None:
    """``threads``, or at most what this process may use: torch does not see a container's quota."""
    wanted = threads or min(torch.get_num_threads(), available_cpus())
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def load_lerobot_policy(folder: PolicyFolder, device: str, strict: bool = True) -> Any:
    """LeRobot's policy object of ``folder`` on ``device``, in evaluation mode.

    Weights stored in half precision are widened as they are read. The folder is not modified.

    Raises:
        ModelLoadFailed: see :func:`load`.
    """
    weights = folder.path / "model.safetensors"
    if not weights.is_file():
        raise ModelLoadFailed(f"{weights} is missing; a LeRobot policy directory has it beside config.json")
    # Belt and braces for families that would ask the hub for a backbone: local files only, unless told otherwise.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from lerobot.policies.factory import get_policy_class

    try:
        with folder.runtime_config_copy(device) as copy:
            config = _config(copy)
            return get_policy_class(config.type).from_pretrained(str(copy), config=config, strict=strict)
    except ImportError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelLoadFailed(f"{weights}: {_OUT_OF_MEMORY}. {error}") from error
    except Exception as error:
        raise ModelLoadFailed(f"{folder.path} does not load as '{folder.config.type}': {error}") from error


def _config(directory: Path) -> Any:
    """LeRobot's configuration object. Its own ``from_pretrained`` would leave a temporary file behind at every load."""
    import draccus
    from lerobot.configs import PreTrainedConfig

    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return draccus.decode(PreTrainedConfig.get_choice_class(fields.pop("type")), fields)
