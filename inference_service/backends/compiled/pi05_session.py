"""``PI05OMRuntimeSession``: PI0.5 as two ``.om`` files, the second asked once per denoising step.

::

    pictures, tokens, masks ──► vlm ──► past_kv_tensor, prefix_pad_masks ──┐ (stay on the device)
                                                    time, x_t (noise) ─────┴──► action_expert, N times

What the action expert returns, the next ``x_t`` or a velocity, its graph does not tell: the sidecar does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.acl_model import AclModel
from inference_service.backends.compiled.acl_runtime import AclContext
from inference_service.backends.compiled.acl_session import AclSession
from inference_service.backends.compiled.matching import bind
from inference_service.backends.compiled.pi05_adapter import NOISE
from inference_service.backends.compiled.sidecar import Denoising
from inference_service.core.errors import InferenceFailed, ModelLoadFailed

if TYPE_CHECKING:
    from inference_service.backends.compiled.session import Guide, TensorSpec
    from inference_service.backends.compiled.sidecar import Sidecar

DEFAULT_STEPS = 10
_log = logging.getLogger(__name__)


class PI05OMRuntimeSession(AclSession):
    """``inputs`` are those of the VLM and, last, the noise.

    ``steps``: of equal length, where the sidecar gives no timesteps. Without a ``denoising`` section the action expert
    is taken to make the Euler step itself, as the first exporters had it.

    Raises:
        BackendUnavailable: CANN or the device is not here.
        ModelLoadFailed: an artifact does not load, is not what the sidecar declares, or the two do not fit together.
    """

    def __init__(self, sidecar: Sidecar, device_id: int = 0, steps: int = DEFAULT_STEPS) -> None:
        self._denoising = sidecar.denoising or _assumed(sidecar)
        self._times = np.asarray(self._denoising.timesteps or np.linspace(1.0, 0.0, steps + 1), np.float64)
        super().__init__(sidecar, device_id)
        if self.no_guidance:
            _log.info("real-time chunking is not to be had: %s", self.no_guidance)

    def _load(self, context: AclContext) -> None:
        vlm = self._vlm = AclModel(context, self._sidecar.artifacts["vlm"].path)
        expert = self._expert = AclModel(context, self._sidecar.artifacts["action_expert"].path)
        vlm_inputs, _ = self._bound("vlm", vlm)
        _, self.outputs = self._bound("action_expert", expert)
        self._linked = len(vlm.outputs)
        self._check_fit()
        if self._denoising.model_output == "velocity":
            self.outputs = (replace(self.outputs[0], dtype=np.dtype(np.float32)),)
        self.inputs = (*vlm_inputs, replace(expert.inputs[-1], name=NOISE))
        vlm.allocate()
        expert.allocate(dict(enumerate(vlm.output_memory)))

    def _bound(self, role: str, model: AclModel) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        declared, where = self._sidecar.bindings_of(role), f"{self._sidecar.file} and {model.path.name}"
        return bind(model.inputs, declared.inputs, where), bind(model.outputs, declared.outputs, where)

    def _check_fit(self) -> None:
        """The action expert takes what the VLM gives, then ``time`` and ``x_t``, and gives one tensor like ``x_t``."""
        given, taken, where = self._vlm.outputs, self._expert.inputs, self._expert.path
        if len(taken) != len(given) + 2:
            raise ModelLoadFailed(
                f"{where} takes {len(taken)} inputs; expected {len(given) + 2}, the outputs of {self._vlm.path.name} "
                f"({', '.join(spec.name for spec in given)}), time and x_t"
            )
        for output, spec in zip(given, taken[: len(given)], strict=True):
            if (output.shape, output.dtype) != (spec.shape, spec.dtype):
                raise ModelLoadFailed(
                    f"{where}: input {spec} does not fit the output {output} of {self._vlm.path.name}"
                )
        time, noise = taken[-2:]
        if time.shape != (1,) or time.dtype.kind != "f":
            raise ModelLoadFailed(f"{where}: input {time} should be the time, a float [1]")
        answer = self.outputs[0]
        if len(self.outputs) != 1 or (answer.shape, answer.dtype) != (noise.shape, noise.dtype):
            raise ModelLoadFailed(f"{where}: the output {answer} is not like the input {noise}")

    @property
    def no_guidance(self) -> str:
        integrates = self._denoising.model_output == "x_t"
        return "the action expert makes the Euler step itself; export it to return the velocity" if integrates else ""

    def run_guided(self, inputs: Sequence[NDArray[Any]], guide: Guide) -> list[NDArray[Any]]:
        if self.no_guidance:
            raise InferenceFailed(f"{self._expert.path.name} cannot be guided: {self.no_guidance}")
        with self._serving(inputs):
            return self._forward(inputs, guide)

    def _forward(self, inputs: Sequence[NDArray[Any]], guide: Guide | None = None) -> list[NDArray[Any]]:
        *prefix, noise = inputs
        for index, array in enumerate(prefix):
            self._vlm.write(index, array)
        self._vlm.execute()
        return [self._denoise(noise, guide)]

    def _denoise(self, noise: NDArray[Any], guide: Guide | None) -> NDArray[Any]:
        expert, time, x_t = self._expert, self._linked, self._linked + 1
        dtype = expert.inputs[time].dtype
        integrates = self._denoising.model_output == "x_t"
        expert.write(x_t, noise)
        # Accumulated in single precision also where the artifact computes in half.
        state = noise.astype(np.float32)
        for step, (now, later) in enumerate(zip(self._times[:-1], self._times[1:], strict=True)):
            expert.write(time, np.array([now], dtype))
            if step and integrates:
                expert.feed_back(0, x_t)
            elif step:
                expert.write(x_t, state.astype(noise.dtype))
            expert.execute()
            if not integrates:
                velocity = expert.read(0).astype(np.float32)
                velocity = guide(velocity, state, float(now)) if guide is not None else velocity
                state += np.float32(later - now) * velocity
        return expert.read(0) if integrates else state


def _assumed(sidecar: Sidecar) -> Denoising:
    _log.warning(
        "%s has no 'denoising': taking the action expert to make the Euler step itself; if it returns a velocity, "
        'declare {"denoising": {"model_output": "velocity"}}',
        sidecar.file,
    )
    return Denoising(model_output="x_t")
