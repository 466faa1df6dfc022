"""Backend ``ascend_om_3403``: HiSilicon SD3403 through the worker named in ``config.om.json``.

``backend_config`` may hold ``request_timeout_s`` (5), ``start_timeout_s`` (60, model loading included),
``graceful_close_timeout`` (5), ``max_restarts`` (3) within ``restart_window_s`` (60), and ``action_output``
with ``index`` (1), ``layout`` (``direct`` or ``strided``, else decided by the size) and ``stride`` (elements per
row where strided; 8 for ACT on a six-joint arm). IB-Robot's ``action_output_index`` and
``sd3403_action_output_index`` are understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inference_service.backends.compiled.adapters import ACTCompiledAdapter
from inference_service.backends.compiled.declared import declared_inputs
from inference_service.backends.compiled.policy import CompiledPolicyWrapper
from inference_service.backends.compiled.sd3403_session import ActionOutput, Patience, SD3403RuntimeSession
from inference_service.backends.compiled.sidecar import Binding, load_sidecar
from inference_service.backends.options import check_extra
from inference_service.core.errors import BackendUnavailable, PolicyFolderError
from inference_service.core.policy_config import ACTION

if TYPE_CHECKING:
    from inference_service.backends.compiled.sidecar import Sidecar
    from inference_service.core.policy import BackendOptions
    from inference_service.core.policy_folder import PolicyFolder

BACKEND = "ascend_om_3403"
_DEFAULT_OUTPUT = 1


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ActionOutputOptions(_Options):
    index: int | None = Field(default=None, ge=0, le=31)
    layout: Literal["direct", "strided"] | None = None
    stride: int | None = Field(default=None, ge=1, le=4096)

    @model_validator(mode="after")
    def _consistent(self) -> ActionOutputOptions:
        if self.stride is not None and self.layout != "strided":
            raise ValueError('stride is for "layout": "strided"')
        return self


class SD3403Options(_Options):
    """``backend_config`` of ``config.om.json``; times in seconds."""

    request_timeout_s: float = Field(default=5.0, gt=0, le=600)
    start_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    graceful_close_timeout: float = Field(default=5.0, ge=0, le=60)
    max_restarts: int = Field(default=3, ge=0, le=1000)
    restart_window_s: float = Field(default=60.0, gt=0, le=86400)
    action_output: ActionOutputOptions = ActionOutputOptions()
    action_output_index: int | None = Field(default=None, ge=0, le=31)
    sd3403_action_output_index: int | None = Field(default=None, ge=0, le=31)

    @model_validator(mode="after")
    def _one_index(self) -> SD3403Options:
        if len(self._indices()) > 1:
            raise ValueError(f"the action's output index is given as {sorted(self._indices())}; give one")
        return self

    def _indices(self) -> set[int]:
        given = (self.action_output.index, self.action_output_index, self.sd3403_action_output_index)
        return {index for index in given if index is not None}

    @property
    def index(self) -> int | None:
        return next(iter(self._indices()), None)

    @property
    def patience(self) -> Patience:
        return Patience(
            request_s=self.request_timeout_s,
            start_s=self.start_timeout_s,
            leave_s=self.graceful_close_timeout,
            max_restarts=self.max_restarts,
            restart_window_s=self.restart_window_s,
        )


def load(folder: PolicyFolder, options: BackendOptions) -> CompiledPolicyWrapper:
    """Start the worker with the model of ``folder`` and prove both with a first inference.

    Raises:
        PolicyFolderError: ``config.om.json`` is missing or wrong.
        ModelLoadFailed: an artifact is missing, or the worker does not run the model.
        BackendUnavailable: the worker cannot be executed on this system.
    """
    check_extra(BACKEND, options.extra, ())
    if options.device != "cpu":
        raise BackendUnavailable(f"backend '{BACKEND}' has no device '{options.device}'; pass device:={BACKEND}")
    sidecar = load_sidecar(folder, BACKEND)
    settings = sidecar.options(SD3403Options)
    adapter = ACTCompiledAdapter(folder)
    bindings = sidecar.bindings_of("policy")
    session = SD3403RuntimeSession(
        sidecar.artifacts["worker"].path,
        sidecar.artifacts["policy"].path,
        declared_inputs(adapter.wanted, bindings.inputs, "NCHW", str(sidecar.file)),
        _action_output(sidecar, settings, adapter),
        settings.patience,
    )
    return CompiledPolicyWrapper(folder, adapter, session, BACKEND)


def _action_output(sidecar: Sidecar, settings: SD3403Options, adapter: ACTCompiledAdapter) -> ActionOutput:
    binding = next((output for output in sidecar.bindings_of("policy").outputs if output.name == ACTION), None)
    index = settings.index if settings.index is not None else _DEFAULT_OUTPUT
    layout, stride = settings.action_output.layout, settings.action_output.stride
    if binding is not None:
        if settings.index not in (None, binding.index):
            raise PolicyFolderError(
                f"{sidecar.file}: key 'backend_config' says that the action is output {settings.index}, "
                f"key 'bindings.policy.outputs' says {binding.index}"
            )
        index = binding.index
        if layout is None and binding.shape is not None:
            layout, stride = _declared_rows(binding, adapter, sidecar)
    return ActionOutput(index, adapter.chunk_size, adapter.action_dim, layout, stride)


def _declared_rows(
    binding: Binding, adapter: ACTCompiledAdapter, sidecar: Sidecar
) -> tuple[Literal["direct", "strided"], int | None]:
    """Layout and stride of an output declared as (…, chunk, elements per row)."""
    shape = binding.shape or ()
    if shape[-2:-1] != (adapter.chunk_size,) or shape[-1] < adapter.action_dim or set(shape[:-2]) - {1}:
        raise PolicyFolderError(
            f"{sidecar.file}: key 'bindings.policy.outputs': the action is declared as {list(shape)}; expected "
            f"[1, {adapter.chunk_size}, n] with n at least {adapter.action_dim}"
        )
    return ("direct", None) if shape[-1] == adapter.action_dim else ("strided", shape[-1])
