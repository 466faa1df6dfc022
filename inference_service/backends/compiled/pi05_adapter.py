"""PI0.5: pictures and a tokenised prompt in; noise denoised into a chunk.

Pictures reach the artifact with values in [0, 1]; mapping them to [-1, 1] is part of the graph, as in LeRobot's
``PI05Policy``. The state is in the prompt, put there by LeRobot's preprocessor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference_service.backends.compiled.adapters import FLOATS, require
from inference_service.backends.compiled.images import as_layout, image_tensor, resize_with_pad
from inference_service.backends.compiled.matching import arrange
from inference_service.backends.compiled.session import Guide, TensorSpec
from inference_service.core.batch import Batch, Feature, FeatureType, Float32, Value
from inference_service.core.errors import InferenceFailed, ModelLoadFailed, PolicyFolderError
from inference_service.core.rtc import Guidance, PrefixSchedule, RtcSettings

if TYPE_CHECKING:
    from inference_service.core.policy import LeftOver
    from inference_service.core.policy_folder import PolicyFolder

TOKENS = "observation.language.tokens"
LANGUAGE_MASK = "observation.language.attention_mask"
PREFIX_MASK = "prefix_att_2d_masks_4d"
NOISE = "noise"
BATCH_NOISE = "_noise"
"""Key of a batch that gives the noise, float (1, chunk_size, width); without, it is drawn from the request's seed,
else from the one that the policy was loaded with."""

MAX_ACTION_DIM = 32
"""Width of the noise where config.json gives none; the robot's own dimensions come first."""

MASKED = -2.3819763e38
"""openpi's additive value of what attention must not see; smaller ones overflow in bfloat16."""

_ALIASES = {"lang_tokens": TOKENS, "tokens": TOKENS, "lang_masks": LANGUAGE_MASK, "masks": LANGUAGE_MASK}
_BATCH_KEYS = {TOKENS: (TOKENS, "lang_tokens"), LANGUAGE_MASK: (LANGUAGE_MASK, "lang_masks")}
_INTEGERS = (np.dtype(np.int64), np.dtype(np.int32))
_log = logging.getLogger(__name__)


class PI05CompiledAdapter:
    """See :class:`~.adapters.Adapter`."""

    policy_type = "pi05"

    def __init__(self, folder: PolicyFolder, seed: int = 0) -> None:
        config = folder.config
        self.chunk_size = config.chunk_size
        self.action_dim = config.action_dim
        self.input_features: Mapping[str, Feature] = config.input_features
        self._where = str(folder.path)
        self._seed = seed
        self._cameras = [name for name, f in config.input_features.items() if f.type is FeatureType.VISUAL]
        self.order: tuple[str, ...] = (*self._cameras, TOKENS, LANGUAGE_MASK, PREFIX_MASK, NOISE)
        self.wanted = self._wanted(config.raw)
        self._specs: dict[str, TensorSpec] = {}
        self._noise: NDArray[Any] = np.empty(0)
        self._rtc = rtc_settings(folder)

    def _wanted(self, raw: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
        """As config.json has them. The prefix's length is the artifact's: 0 stands for it."""
        height, width = raw.get("image_resolution") or (224, 224)
        length = int(raw.get("tokenizer_max_length") or 200)
        float32 = np.dtype(np.float32)
        return (
            *(TensorSpec(name, (1, 3, int(height), int(width)), float32, "NCHW") for name in self._cameras),
            TensorSpec(TOKENS, (1, length), np.dtype(np.int64)),
            TensorSpec(LANGUAGE_MASK, (1, length), np.dtype(np.bool_)),
            TensorSpec(PREFIX_MASK, (1, 1, 0, 0), float32),
            TensorSpec(NOISE, (1, self.chunk_size, int(raw.get("max_action_dim") or MAX_ACTION_DIM)), float32),
        )

    def fit(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        names = [spec.name for spec in self.wanted]
        self.order = arrange(inputs, names, self._where, aliases=_ALIASES)
        self._specs = dict(zip(self.order, inputs, strict=True))
        for name in self._cameras:
            self._check_image(self._specs[name])
        self._check_language()
        self._check_noise(self._specs[NOISE], outputs[0])
        length = self._specs[TOKENS].shape[1]
        language = {name: Feature(name, FeatureType.LANGUAGE, (length,)) for name in (TOKENS, LANGUAGE_MASK)}
        self.input_features = {**self.input_features, **language}
        self._noise = self._drawn(self._seed)
        _log.info("inputs: %s", ", ".join(f"{i} {name}" for i, name in enumerate(self.order)))

    def _check_image(self, spec: TensorSpec) -> None:
        fits = len(spec.shape) == 4 and spec.shape[:2] == (1, 3) and spec.layout != "NHWC" and spec.dtype in FLOATS
        self._refuse_unless(fits, spec, "float (1, 3, height, width)")

    def _check_language(self) -> None:
        tokens, mask, prefix = (self._specs[name] for name in (TOKENS, LANGUAGE_MASK, PREFIX_MASK))
        self._refuse_unless(len(tokens.shape) == 2 and tokens.shape[0] == 1, tokens, "(1, length)")
        self._refuse_unless(tokens.dtype in _INTEGERS, tokens, "int64 or int32")
        self._refuse_unless(mask.shape == tokens.shape and mask.dtype == np.bool_, mask, f"bool {tokens.shape}")
        size = prefix.shape[-1]
        square = prefix.shape == (1, 1, size, size) and prefix.dtype == np.float32
        self._refuse_unless(square, prefix, "float32 (1, 1, S, S); in half precision the masking value is infinite")
        pictures = size - tokens.shape[1]
        whole = bool(self._cameras) and pictures > 0 and pictures % len(self._cameras) == 0
        self._refuse_unless(whole, prefix, f"S = {tokens.shape[1]} + a multiple of {len(self._cameras)} cameras")

    def _check_noise(self, noise: TensorSpec, output: TensorSpec) -> None:
        fits = len(noise.shape) == 3 and noise.shape[:2] == (1, self.chunk_size) and noise.shape[2] >= self.action_dim
        self._refuse_unless(fits, noise, f"(1, {self.chunk_size}, {self.action_dim} or more)")
        self._refuse_unless(output.shape == noise.shape, output, f"{list(noise.shape)}, the shape of the noise")

    def _refuse_unless(self, fits: bool, spec: TensorSpec, expected: str) -> None:
        if not fits:
            raise ModelLoadFailed(f"{self._where}: the artifact has {spec}, expected {expected}")

    def encode(self, batch: Batch, seed: int | None = None) -> list[NDArray[Any]]:
        require(batch, self._cameras)
        mask = self._language(batch, LANGUAGE_MASK)
        made = {TOKENS: self._language(batch, TOKENS), LANGUAGE_MASK: mask, NOISE: self._starting_noise(batch, seed)}
        made[PREFIX_MASK] = prefix_mask(mask, self._specs[PREFIX_MASK].shape[-1])
        return [made[name] if name in made else self._picture(batch[name], name) for name in self.order]

    def _picture(self, value: Value, name: str) -> NDArray[Any]:
        spec = self._specs[name]
        try:
            image = resize_with_pad(image_tensor(value), spec.shape[2], spec.shape[3])
            return as_layout(image, "NCHW", spec.dtype).reshape(spec.shape)
        except (ValueError, TypeError) as error:
            raise InferenceFailed(f"'{name}' does not fit input {spec}: {error}") from error

    def _language(self, batch: Batch, name: str) -> NDArray[Any]:
        spec = self._specs[name]
        key = next((key for key in _BATCH_KEYS[name] if key in batch), None)
        if key is None:
            raise InferenceFailed(f"the batch lacks '{name}'; the preprocessor of this policy must tokenise the task")
        value = np.asarray(batch[key])
        if value.shape != spec.shape:
            raise InferenceFailed(
                f"'{key}' is {value.shape}, the artifact takes {spec.shape}: same tokenizer_max_length?"
            )
        cast = value.astype(spec.dtype)
        if not np.array_equal(cast, value):
            raise InferenceFailed(f"'{key}' holds {value.dtype.name} values that are no {spec.dtype.name}")
        return np.ascontiguousarray(cast)

    def _starting_noise(self, batch: Batch, seed: int | None) -> NDArray[Any]:
        if BATCH_NOISE not in batch:
            return self._noise if seed is None else self._drawn(seed)
        noise = np.asarray(batch[BATCH_NOISE])
        if noise.shape != self._noise.shape:
            raise InferenceFailed(f"'{BATCH_NOISE}' is {noise.shape}, expected {self._noise.shape}")
        return np.ascontiguousarray(noise, self._noise.dtype)

    def _drawn(self, seed: int) -> NDArray[Any]:
        spec = self._specs[NOISE]
        return np.random.default_rng(seed).standard_normal(spec.shape, np.float32).astype(spec.dtype)

    def guide(self, left_over: LeftOver) -> Guide | None:
        _, steps, width = self._specs[NOISE].shape
        return Guidance(left_over, (steps, width), self._rtc)

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Float32:
        return np.array(outputs[0][0, :, : self.action_dim], np.float32)


def prefix_mask(language: NDArray[Any], size: int) -> Float32:
    """The additive attention mask of the prefix, float32 (1, 1, size, size), for ``language`` bool (1, L).

    Every picture token and every true language token sees every other of them: 0 there, :data:`MASKED` elsewhere.
    Made here and not in the graph, where a converter to half precision would spoil the constant.
    """
    visible = np.ones(size, np.bool_)
    visible[size - language.shape[1] :] = language[0]
    mask: Float32 = np.where(visible[:, None] & visible[None, :], np.float32(0), np.float32(MASKED))[None, None]
    return mask


def rtc_settings(folder: PolicyFolder) -> RtcSettings:
    """What ``rtc_config`` of config.json says of real-time chunking, LeRobot's defaults where it does not.

    Raises:
        PolicyFolderError: naming the key.
    """
    where = f"{folder.path / 'config.json'}: key 'rtc_config'"
    raw = folder.config.raw.get("rtc_config") or {}
    if not isinstance(raw, dict):
        raise PolicyFolderError(f"{where} must be an object, found {raw!r:.80}")
    schedule, weight = raw.get("prefix_attention_schedule", "LINEAR"), raw.get("max_guidance_weight", 10.0)
    if schedule not in list(PrefixSchedule):
        known = ", ".join(member.value for member in PrefixSchedule)
        raise PolicyFolderError(f"{where}: prefix_attention_schedule is {schedule!r:.80}, expected one of {known}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise PolicyFolderError(f"{where}: max_guidance_weight is {weight!r:.80}, expected a number above 0")
    return RtcSettings(PrefixSchedule(schedule), float(weight))
