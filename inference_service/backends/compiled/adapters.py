"""What a model family means by its tensors: their order, how a batch fills them, how a chunk comes out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.images import as_layout, image_tensor, resize
from inference_service.backends.compiled.matching import arrange
from inference_service.backends.compiled.session import Guide, Layout, TensorSpec
from inference_service.core.batch import Batch, Feature, FeatureType, Float32, Value
from inference_service.core.errors import InferenceFailed, ModelLoadFailed, PolicyFolderError
from inference_service.core.policy_config import ACTION

if TYPE_CHECKING:
    from inference_service.core.policy import LeftOver
    from inference_service.core.policy_folder import PolicyFolder

ORDER_KEYS = ("compiled_runtime_input_order", "runtime_input_order", "input_order")
"""Keys of config.json that may give the order of the artifact's inputs; the first found counts."""

FLOATS = (np.dtype(np.float32), np.dtype(np.float16))
_log = logging.getLogger(__name__)


class Adapter(Protocol):
    """A model family. ``fit`` is called once, before the rest of the methods."""

    policy_type: str
    chunk_size: int
    action_dim: int

    @property
    def input_features(self) -> Mapping[str, Feature]:
        """What a batch must hold."""
        ...

    @property
    def wanted(self) -> tuple[TensorSpec, ...]:
        """The inputs in the family's order, as float32 NCHW: what a runtime that cannot describe its own has."""
        ...

    @property
    def order(self) -> tuple[str, ...]:
        """The policy's name of each of the artifact's inputs."""
        ...

    def fit(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Settle which tensor is which.

        Raises:
            ModelLoadFailed: the artifact is of another shape than config.json says.
        """
        ...

    def encode(self, batch: Batch, seed: int | None = None) -> list[NDArray[Any]]:
        """The runtime's inputs, contiguous, in its order, layouts and dtypes. ``seed``: of the noise, where there is.

        Raises:
            InferenceFailed: the batch lacks an input, or one has another shape.
        """
        ...

    def guide(self, left_over: LeftOver) -> Guide | None:
        """How each denoising step is drawn towards ``left_over``. None: the family does not denoise.

        Raises:
            InvalidObservation: it is longer or wider than the model's chunk.
        """
        ...

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Float32:
        """The chunk, (chunk_size, action_dim), owned by the caller."""
        ...


class ACTCompiledAdapter:
    """ACT: state and pictures in, one chunk out."""

    policy_type = "act"

    def __init__(self, folder: PolicyFolder) -> None:
        config = folder.config
        self.chunk_size = config.chunk_size
        self.action_dim = config.action_dim
        self.input_features: Mapping[str, Feature] = config.input_features
        self._where = str(folder.path)
        self._declared, names = _input_order(folder)
        self.wanted = tuple(_wanted(config.input_features[name]) for name in names)
        self.order: tuple[str, ...] = tuple(names)
        self._inputs: tuple[TensorSpec, ...] = ()
        self._output = 0

    def fit(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        names = [spec.name for spec in self.wanted]
        self.order = arrange(inputs, names, self._where, declared=self._declared)
        self._inputs = tuple(
            _fitted(spec, self.input_features[name], self._where) for spec, name in zip(inputs, self.order, strict=True)
        )
        self._output = _output_index(outputs)
        self._check_output(outputs[self._output])
        _log.info("inputs: %s", ", ".join(f"{i} {name}" for i, name in enumerate(self.order)))

    def _check_output(self, spec: TensorSpec) -> None:
        fits = math.prod(spec.shape) == self.chunk_size * self.action_dim
        if not fits or (len(spec.shape) > 1 and spec.shape[-1] not in (self.action_dim, math.prod(spec.shape))):
            raise ModelLoadFailed(
                f"{self._where}: output '{spec.name}' is {list(spec.shape)}, config.json gives a chunk of "
                f"{self.chunk_size} actions of {self.action_dim}"
            )

    def encode(self, batch: Batch, seed: int | None = None) -> list[NDArray[Any]]:
        require(batch, self.order)
        return [
            _encoded(batch[name], spec, self.input_features[name])
            for name, spec in zip(self.order, self._inputs, strict=True)
        ]

    def guide(self, left_over: LeftOver) -> Guide | None:
        return None

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Float32:
        return np.array(outputs[self._output], np.float32).reshape(self.chunk_size, self.action_dim)


def require(batch: Batch, names: Sequence[str]) -> None:
    """Raises InferenceFailed naming what ``batch`` lacks."""
    if missing := [name for name in names if name not in batch]:
        raise InferenceFailed(f"the batch lacks '{missing[0]}'; it has {', '.join(batch) or 'nothing'}")


def _input_order(folder: PolicyFolder) -> tuple[bool, list[str]]:
    """Whether config.json declares an order, and the order."""
    config = folder.config
    features = [name for name, feature in config.input_features.items() if feature.type is not FeatureType.LANGUAGE]
    key = next((key for key in ORDER_KEYS if config.raw.get(key) is not None), None)
    if key is None:
        return False, features
    order = config.raw[key]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(features):
        raise PolicyFolderError(
            f"{folder.path / 'config.json'}: key '{key}' must list each of {features} once, found {order!r:.200}"
        )
    return True, order


def _wanted(feature: Feature) -> TensorSpec:
    layout: Layout = "NCHW" if feature.type is FeatureType.VISUAL else "plain"
    return TensorSpec(feature.name, (1, *feature.shape), np.dtype(np.float32), layout)


def _fitted(spec: TensorSpec, feature: Feature, where: str) -> TensorSpec:
    """``spec`` with its layout settled."""
    if spec.dtype not in FLOATS:
        raise ModelLoadFailed(
            f"{where}: input '{spec.name}' takes {spec.dtype.name}, expected float32 or float16; convert without "
            "preprocessing inside the artifact (AIPP, quantised inputs): pictures arrive normalised"
        )
    layout = image_layout(spec, feature) if feature.type is FeatureType.VISUAL else "plain"
    if layout is None or (layout == "plain" and math.prod(spec.shape) != math.prod(feature.shape)):
        raise ModelLoadFailed(
            f"{where}: input '{spec.name}' is {list(spec.shape)}{'' if spec.layout == 'plain' else ' ' + spec.layout}, "
            f"but '{feature.name}', which belongs there, is {[1, *feature.shape]} in config.json; if the order is "
            f"another, give it in config.json as '{ORDER_KEYS[0]}' or declare bindings in the sidecar"
        )
    return TensorSpec(spec.name, spec.shape, spec.dtype, layout)


def image_layout(spec: TensorSpec, feature: Feature) -> Layout | None:
    """The layout in which ``spec`` holds the picture ``feature`` (C, H, W); None where it does not."""
    channels, height, width = feature.shape
    shapes: dict[Layout, tuple[int, ...]] = {
        "NCHW": (1, channels, height, width),
        "NHWC": (1, height, width, channels),
    }
    fitting = [layout for layout, shape in shapes.items() if shape == spec.shape]
    if spec.layout != "plain":
        return spec.layout if spec.layout in fitting else None
    return fitting[0] if fitting else None


def _encoded(value: Value, spec: TensorSpec, feature: Feature) -> NDArray[Any]:
    try:
        if spec.layout == "plain":
            return np.ascontiguousarray(value, spec.dtype).reshape(spec.shape)
        image = resize(image_tensor(value), feature.shape[1], feature.shape[2])
        return as_layout(image, spec.layout, spec.dtype).reshape(spec.shape)
    except (ValueError, TypeError) as error:
        raise InferenceFailed(f"'{feature.name}' does not fit input {spec}: {error}") from error


def _output_index(outputs: Sequence[TensorSpec]) -> int:
    """The output called ``action``, else the first."""
    return next((index for index, spec in enumerate(outputs) if spec.name == ACTION), 0)


def adapter_for(folder: PolicyFolder, seed: int = 0) -> Adapter:
    """The adapter of ``folder``'s family. ``seed``: of the noise that PI0.5 starts from."""
    from inference_service.backends.compiled.pi05_adapter import PI05CompiledAdapter

    if folder.config.type == PI05CompiledAdapter.policy_type:
        return PI05CompiledAdapter(folder, seed)
    if folder.config.type == ACTCompiledAdapter.policy_type:
        return ACTCompiledAdapter(folder)
    raise PolicyFolderError(
        f"{folder.path / 'config.json'}: key 'type' is '{folder.config.type}', compiled backends run act and pi05"
    )
