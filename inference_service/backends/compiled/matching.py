"""Which input of an artifact is which input of the policy: by declaration, by name, else by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from inference_service.backends.compiled.session import TensorSpec
from inference_service.backends.compiled.sidecar import Binding
from inference_service.core.errors import ModelLoadFailed


def bind(specs: Sequence[TensorSpec], bindings: Sequence[Binding], where: str) -> tuple[TensorSpec, ...]:
    """``specs``, which the artifact gave, under the names that the sidecar declares. ``where`` names both.

    What a binding says (``runtime_name``, ``dtype``, ``shape``, ``layout``) must be what the artifact says. An
    artifact whose own names are those of the bindings must have them in the same places: that is how two cameras of
    equal size are told apart. No bindings: ``specs`` as they are.

    Raises:
        ModelLoadFailed: naming the binding, what it declares and what the artifact has.
    """
    if not bindings:
        return tuple(specs)
    if len(bindings) != len(specs):
        raise ModelLoadFailed(f"{where}: {len(bindings)} tensors declared, the artifact has {_listed(specs)}")
    declared = sorted(bindings, key=lambda binding: binding.index)
    own = [spec.name for spec in specs]
    for binding, spec in zip(declared, specs, strict=True):
        _check(binding, spec, own, f"{where}: '{binding.name}' at index {binding.index}")
    return tuple(
        replace(spec, name=binding.name, layout=binding.layout or spec.layout)
        for binding, spec in zip(declared, specs, strict=True)
    )


def _check(binding: Binding, spec: TensorSpec, own: Sequence[str], where: str) -> None:
    if binding.runtime_name is not None and binding.runtime_name != spec.name:
        raise ModelLoadFailed(f"{where} is declared as '{binding.runtime_name}', the artifact has '{spec.name}' there")
    if binding.runtime_name is None and binding.name in own and binding.name != spec.name:
        raise ModelLoadFailed(
            f"{where}: the artifact has it at index {own.index(binding.name)}; its order is {list(own)}"
        )
    if binding.dtype is not None and np.dtype(binding.dtype) != spec.dtype:
        raise ModelLoadFailed(f"{where} is declared as {binding.dtype}, the artifact has {spec.dtype.name}")
    if binding.shape is not None and binding.shape != spec.shape:
        raise ModelLoadFailed(f"{where} is declared as {list(binding.shape)}, the artifact has {list(spec.shape)}")
    if binding.layout is not None and spec.layout not in ("plain", binding.layout):
        raise ModelLoadFailed(f"{where} is declared as {binding.layout}, the artifact has {spec.layout}")


def arrange(
    specs: Sequence[TensorSpec],
    wanted: Sequence[str],
    where: str,
    *,
    aliases: Mapping[str, str] | None = None,
    declared: bool = False,
) -> tuple[str, ...]:
    """The policy's name for each of ``specs``.

    Names that the artifact shares with the policy decide (``aliases``: other names that mean the same); without,
    the order of ``wanted`` does. ``declared``: that order was written down for this artifact, and must not be
    contradicted by its names.

    Raises:
        ModelLoadFailed: another number of inputs, or names that contradict the declared order.
    """
    if len(specs) != len(wanted):
        raise ModelLoadFailed(
            f"{where}: the artifact has {len(specs)} inputs ({_listed(specs)}), the policy {len(wanted)} "
            f"({', '.join(wanted)}); was it converted from this policy?"
        )
    names = tuple((aliases or {}).get(spec.name, spec.name) for spec in specs)
    if set(names) != set(wanted):
        _check_known_names(names, wanted, where)
        return tuple(wanted)
    if declared and names != tuple(wanted):
        raise ModelLoadFailed(f"{where}: the declared input order is {list(wanted)}, the artifact has {list(names)}")
    return names


def _check_known_names(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Some names may be the artifact's own invention; those it shares must stand where the order has them."""
    for index, (name, expected) in enumerate(zip(names, wanted, strict=True)):
        if name in wanted and name != expected:
            raise ModelLoadFailed(
                f"{where}: input {index} is '{name}' by its name and '{expected}' by order; declare bindings for it"
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(str(spec) for spec in specs)
