"""Backend ``ascend_om``: ACT and PI0.5 as ``.om`` files on an Ascend chip, through pyACL.

``device:=ascend_om`` takes the chip that ``backend_config.device_id`` of ``config.om.json`` names (0 without it),
``device:=ascend_om:1`` chip 1. Extra option ``seed`` (int, default 0): of the noise that PI0.5 starts from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from inference_service.backends.compiled.acl_session import OMRuntimeSession
from inference_service.backends.compiled.adapters import adapter_for
from inference_service.backends.compiled.pi05_session import DEFAULT_STEPS, PI05OMRuntimeSession
from inference_service.backends.compiled.policy import CompiledPolicyWrapper
from inference_service.backends.compiled.sidecar import load_sidecar
from inference_service.backends.options import check_extra
from inference_service.core.errors import BackendUnavailable, PolicyFolderError
from inference_service.core.files import check

if TYPE_CHECKING:
    from inference_service.backends.compiled.session import RuntimeSession
    from inference_service.backends.compiled.sidecar import Sidecar
    from inference_service.core.policy import BackendOptions
    from inference_service.core.policy_folder import PolicyFolder

NAME = "ascend_om"
MAX_STEPS = 1000


class AscendConfig(BaseModel):
    """``backend_config`` of ``config.om.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    device_id: int = Field(default=0, ge=0)


def load(folder: PolicyFolder, options: BackendOptions) -> CompiledPolicyWrapper:
    """Load the artifacts that ``config.om.json`` of ``folder`` names.

    Raises:
        PolicyFolderError: no sidecar, or a bad one.
        ModelLoadFailed: an artifact is missing, damaged, for another chip or of another shape.
        BackendUnavailable: CANN, the driver or the chip is not here.
    """
    check_extra(NAME, options.extra, {"seed"})
    sidecar = load_sidecar(folder, NAME)
    device_id = _device_id(options.device, sidecar.options(AscendConfig))
    adapter = adapter_for(folder, seed=int(options.extra.get("seed", 0)))
    return CompiledPolicyWrapper(folder, adapter, _session(folder, sidecar, device_id), NAME)


def _session(folder: PolicyFolder, sidecar: Sidecar, device_id: int) -> RuntimeSession:
    if sidecar.policy_type != "pi05":
        return OMRuntimeSession(sidecar, device_id)
    key = "num_inference_steps"
    where = f"{folder.path / 'config.json'}: key '{key}'"
    steps = check(folder.config.raw.get(key, DEFAULT_STEPS), int, where)
    if not 1 <= steps <= MAX_STEPS:
        raise PolicyFolderError(f"{where} must be from 1 to {MAX_STEPS}, found {steps}")
    return PI05OMRuntimeSession(sidecar, device_id, steps)


def _device_id(device: str, config: AscendConfig) -> int:
    if device == "cpu":
        return config.device_id
    if not device.isdigit():
        raise BackendUnavailable(f"backend '{NAME}' has no device '{device}'; use {NAME} or {NAME}:N")
    return int(device)
