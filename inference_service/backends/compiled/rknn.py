"""Backend ``rknn``: ``model.rknn`` on a Rockchip NPU.

An optional ``config.rknn.json`` names another artifact and gives what RKNNLite cannot tell: the inputs' order,
layouts and dtypes (``bindings``; without them that of config.json, pictures as NHWC, float32). Its ``backend_config``
may hold ``cores`` (``["auto"]``): one RKNNLite object for each of ``auto``, ``0``, ``1``, ``2``, ``0_1``, ``0_1_2``
and ``all``; three of them (``["0", "1", "2"]``) let three threads infer at once on an RK3588, with the model in memory
three times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from inference_service.backends.compiled.adapters import ACTCompiledAdapter
from inference_service.backends.compiled.declared import declared_inputs
from inference_service.backends.compiled.policy import CompiledPolicyWrapper
from inference_service.backends.compiled.rknn_session import RKNNRuntimeSession
from inference_service.backends.compiled.sidecar import load_sidecar
from inference_service.backends.options import check_extra
from inference_service.core.errors import BackendUnavailable

if TYPE_CHECKING:
    from inference_service.core.policy import BackendOptions
    from inference_service.core.policy_folder import PolicyFolder

BACKEND = "rknn"
Core = Literal["auto", "0", "1", "2", "0_1", "0_1_2", "all"]


class RKNNConfig(BaseModel):
    """``backend_config`` of ``config.rknn.json``. ``busy_timeout_s``: how long a caller waits for a free object."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cores: Annotated[tuple[Core, ...], Field(strict=False, min_length=1, max_length=8)] = ("auto",)
    busy_timeout_s: float = Field(default=5.0, gt=0, le=600)


def load(folder: PolicyFolder, options: BackendOptions) -> CompiledPolicyWrapper:
    """Load the artifact of ``folder`` and infer once.

    Raises:
        PolicyFolderError: ``config.rknn.json`` is wrong.
        ModelLoadFailed: the artifact is missing, damaged, for another chip or of another shape.
        BackendUnavailable: RKNNLite, its runtime library or the NPU is not here.
    """
    check_extra(BACKEND, options.extra, ())
    if options.device != "cpu":
        raise BackendUnavailable(
            f"backend '{BACKEND}' has no device '{options.device}'; pass device:={BACKEND}, and name the cores in "
            "backend_config.cores of config.rknn.json"
        )
    sidecar = load_sidecar(folder, BACKEND)
    config = sidecar.options(RKNNConfig)
    adapter = ACTCompiledAdapter(folder)
    bindings = sidecar.bindings_of("policy")
    session = RKNNRuntimeSession(
        sidecar.artifacts["policy"].path,
        declared_inputs(adapter.wanted, bindings.inputs, "NHWC", str(sidecar.file)),
        config.cores,
        [output.name for output in sorted(bindings.outputs, key=lambda output: output.index)],
        config.busy_timeout_s,
    )
    return CompiledPolicyWrapper(folder, adapter, session, BACKEND)
