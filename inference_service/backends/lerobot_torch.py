"""LeRobot's own policy classes on torch, CPU or CUDA.

Loading never touches the network: the weights come from the folder, and the ImageNet weights that a configuration may
name for its backbone are never asked for. What each family needs is in :mod:`.lerobot_families`, the options in
:mod:`.lerobot_options`.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_service.backends.lerobot_encode import Encoder, encoder_of
from inference_service.backends.lerobot_families import FAMILIES, Family, family_of
from inference_service.backends.lerobot_forward import Row, forward_of
from inference_service.backends.lerobot_history import Histories
from inference_service.backends.lerobot_load import OUT_OF_MEMORY, load_lerobot_policy, stay_offline
from inference_service.backends.lerobot_options import LeRobotOptions, parse_options
from inference_service.backends.lerobot_rtc import GuidedDenoising, install
from inference_service.backends.options import available_cpus
from inference_service.core.batch import AffineImage, Batch, Feature, FeatureType, Float32, Value, materialise
from inference_service.core.errors import BackendError, BackendUnavailable, InferenceFailed
from inference_service.core.policy import NO_CONTEXT, BackendOptions, InferenceContext, PolicySpec
from inference_service.core.processing.language import ATTENTION_MASK, TOKENS

if TYPE_CHECKING:
    from inference_service.core.policy_folder import PolicyFolder

__all__ = ["LeRobotPolicy", "apply_table", "language_features", "load", "load_lerobot_policy"]


class LeRobotPolicy:
    """A :class:`~inference_service.core.policy.PolicyWrapper` over a LeRobot policy; also a
    :class:`~inference_service.core.policy.BatchingPolicy` and a
    :class:`~inference_service.core.policy.RememberingPolicy`."""

    def __init__(
        self,
        policy: Any,
        spec: PolicySpec,
        options: LeRobotOptions | None = None,
        guided: GuidedDenoising | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        import torch

        options = options or LeRobotOptions()
        self._torch = torch
        self._policy: Any | None = policy
        self._spec = spec
        self._autocast = options.autocast
        self._encode = encoder or Encoder([])
        self._device = torch.device(spec.device)
        family = FAMILIES.get(spec.policy_type, Family())
        self._width = spec.action_dim if family.cut else None
        self._tables: dict[Any, Any] = {}
        self._histories = Histories(spec.n_obs_steps, options.sessions, options.history_gap_s)
        self._forward = forward_of(
            torch,
            policy,
            self._device,
            options.seed,
            name=spec.policy_type,
            family=family,
            histories=self._histories,
            guided=guided,
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def predict_action_chunk(self, batch: Batch, context: InferenceContext = NO_CONTEXT) -> Float32:
        return self.predict_action_chunks([(batch, context)])[0]

    def predict_action_chunks(self, requests: Sequence[tuple[Batch, InferenceContext]]) -> Sequence[Float32]:
        if self._policy is None:
            raise InferenceFailed("this policy was closed")
        try:
            with self._torch.inference_mode(), self._mixed_precision():
                rows = [self._row(batch) for batch, _ in requests]
                actions = self._forward(rows, [self._on_device(context) for _, context in requests])
                chunks: Float32 = actions[..., : self._width].float().cpu().numpy()
        except self._torch.cuda.OutOfMemoryError as error:
            self._torch.cuda.empty_cache()
            raise InferenceFailed(f"{OUT_OF_MEMORY}. {error}") from error
        except Exception as error:
            raise InferenceFailed(f"{self._spec.policy_type} on {self._device} failed: {error}") from error
        return list(chunks)

    def forget(self, session: str) -> None:
        self._forward.forget(session)

    def close(self) -> None:
        if self._policy is None:
            return
        self._policy = None
        self._forward = None  # type: ignore[assignment]  # holds the policy too
        self._histories.clear()
        self._tables.clear()
        if self._device.type == "cuda":
            gc.collect()
            self._torch.cuda.empty_cache()

    def _mixed_precision(self) -> AbstractContextManager[Any]:
        """As the options say; else as LeRobot's own ``predict_action``: on CUDA, where the configuration asks."""
        if self._autocast == "float32":
            return contextlib.nullcontext()
        if self._autocast is not None:
            return self._torch.autocast(self._device.type, getattr(self._torch, self._autocast))  # type: ignore[no-any-return]
        if self._device.type == "cuda" and self._policy is not None and self._policy.config.use_amp:
            return self._torch.autocast("cuda")  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    def _row(self, batch: Batch) -> Row:
        row = {key: self._to_device(value) for key, value in batch.items()}
        for key in (TOKENS, ATTENTION_MASK):
            feature = self._spec.input_features.get(key)
            if key in row and feature is not None:
                row[key] = _padded(self._torch, row[key], feature.shape[0])
        if ATTENTION_MASK in row:
            # IB-Robot's plain form has no array of bool with two axes: it comes as integers.
            row[ATTENTION_MASK] = row[ATTENTION_MASK].bool()
        return self._encode(row)

    def _on_device(self, context: InferenceContext) -> InferenceContext:
        if context.earlier is None:
            return context
        return replace(context, earlier=tuple(self._row(frame) for frame in context.earlier))

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


def load(folder: PolicyFolder, options: BackendOptions) -> LeRobotPolicy:
    """Load LeRobot's policy of ``folder``. ``options.device``: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelLoadFailed: weights missing, corrupt or foreign, or a family that needs earlier observations.
        BackendUnavailable: no such GPU.
    """
    family = family_of(folder)
    chosen = parse_options(options.extra)
    # libgomp spins at its barriers, which starves a control tick on the same cores; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stay_offline()
    import lerobot
    import torch

    device = _device(torch, options.device)
    _set_threads(torch, options.threads)
    policy = load_lerobot_policy(folder, device, chosen.strict, _override(folder, family, chosen), family.extra)
    if chosen.compile:
        _compile(torch, policy, chosen.compile)
    spec = PolicySpec(
        policy_type=folder.config.type,
        backend_type="lerobot",
        device=device,
        chunk_size=folder.config.chunk_size,
        action_dim=folder.config.action_dim,
        input_features={**folder.config.input_features, **language_features(folder)},
        versions={"lerobot": lerobot.__version__, "torch": torch.__version__},
        n_obs_steps=folder.config.n_obs_steps if family.remembers else 1,
        earlier_observations=folder.config.n_obs_steps - 1 if family.remembers else 0,
        supports_rtc=family.guided,
        max_batch=chosen.max_batch if family.batches else 1,
    )
    guided = _guided(torch, policy, chosen) if family.guided else None
    return LeRobotPolicy(policy, spec, chosen, guided, encoder_of(folder))


def language_features(folder: PolicyFolder) -> dict[str, Feature]:
    """Tokens and their mask as the preprocessor of ``folder`` makes them, (length,) each; empty where it makes none."""
    for entry in folder.preprocessor.steps:
        if entry.name == "tokenizer_processor":
            shape = (int(entry.config.get("max_length", 512)),)
            return {name: Feature(name, FeatureType.LANGUAGE, shape) for name in (TOKENS, ATTENTION_MASK)}
    return {}


def _override(folder: PolicyFolder, family: Family, options: LeRobotOptions) -> dict[str, Any]:
    """What the options change in the configuration, before the policy is built."""
    changed: dict[str, Any] = {}
    if options.dtype is not None:
        if not family.precision:
            raise BackendError(
                f"backend 'lerobot': policy type '{folder.config.type}' has no dtype of its own; "
                "for mixed precision use option 'autocast'"
            )
        changed["dtype"] = options.dtype
    return changed


def _guided(torch: Any, policy: Any, options: LeRobotOptions) -> GuidedDenoising:
    return install(torch, policy, options.rtc_schedule, options.rtc_max_guidance_weight)


def _compile(torch: Any, policy: Any, mode: str) -> None:
    """Compile the part that a chunk costs most: what the family itself would compile, or the whole model."""
    if hasattr(policy, "diffusion"):
        policy.diffusion.unet = torch.compile(policy.diffusion.unet, mode=mode)
    elif hasattr(policy.model, "sample_actions"):
        policy.model.sample_actions = torch.compile(policy.model.sample_actions, mode=mode)
    else:
        policy.model.forward = torch.compile(policy.model.forward, mode=mode)


def _padded(torch: Any, tensor: Any, length: int) -> Any:
    """Prompts come without their padding from LeRobot's own steps; every new length would compile a new graph."""
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]))


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
