"""Inputs of runtimes that cannot describe their own: what the sidecar declares, else what the policy wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from inference_service.backends.compiled.session import Layout, TensorSpec
from inference_service.backends.compiled.sidecar import Binding
from inference_service.core.errors import ModelLoadFailed


def declared_inputs(
    wanted: Sequence[TensorSpec], bindings: Sequence[Binding], image_layout: Layout, where: str
) -> tuple[TensorSpec, ...]:
    """The runtime's inputs in its order.

    ``wanted``: the family's inputs in its own order, pictures as NCHW. ``bindings`` may give another order, dtypes,
    layouts and shapes; where they do not, pictures are in ``image_layout`` and all is float32.

    Raises:
        ModelLoadFailed: the bindings name other tensors, or a shape that the policy does not have.
    """
    by_name = {spec.name: spec for spec in wanted}
    if not bindings:
        return tuple(_laid_out(spec, image_layout) for spec in wanted)
    declared = sorted(bindings, key=lambda binding: binding.index)
    names = [binding.name for binding in declared]
    if sorted(names) != sorted(by_name):
        raise ModelLoadFailed(
            f"{where}: the bindings declare the inputs {', '.join(names)}; the policy has {', '.join(by_name)}"
        )
    return tuple(_applied(by_name[binding.name], binding, image_layout, where) for binding in declared)


def _applied(spec: TensorSpec, binding: Binding, image_layout: Layout, where: str) -> TensorSpec:
    if (spec.layout == "plain") != (binding.layout in (None, "plain")) and binding.layout is not None:
        raise ModelLoadFailed(
            f"{where}: '{spec.name}' is declared as {binding.layout}; NCHW and NHWC are for pictures only"
        )
    settled = replace(_laid_out(spec, binding.layout or image_layout), dtype=np.dtype(binding.dtype or spec.dtype))
    if binding.shape is not None and binding.shape != settled.shape:
        raise ModelLoadFailed(
            f"{where}: '{spec.name}' is declared as {list(binding.shape)}, config.json makes it {settled}"
        )
    return settled


def _laid_out(spec: TensorSpec, layout: Layout) -> TensorSpec:
    """``spec``, where it is a picture, in ``layout``."""
    if spec.layout != "NCHW" or layout != "NHWC":
        return spec
    batch, channels, height, width = spec.shape
    return replace(spec, shape=(batch, height, width, channels), layout="NHWC")
