"""Small vision-language models of the kinds that LeRobot's larger families stand on, saved as their hubs have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.families import make_tokenizer
from tests.lerobot_models import make_model_folder

VOCABULARY = 640
_QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_INTERN = ("<img>", "</img>", "<IMG_CONTEXT>")
# One message after the other; an image is its three tokens, the middle one repeated by the processor.
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def save_tokenizer(path: Path, special: Sequence[str]) -> Any:
    """The toy tokenizer, which also knows ``special``, in ``path``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(path))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(path)
    return tokenizer


def make_qwen2_5_vl(path: Path) -> Path:
    """Qwen2.5-VL with its processor."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = save_tokenizer(path, _QWEN)
    ids = dict(zip(_QWEN, tokenizer.convert_tokens_to_ids(list(_QWEN)), strict=True))
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        text_config=_TEXT | {"rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"}},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(path)
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=_TEMPLATE
    )
    processor.save_pretrained(path)
    return path


def make_qwen3_vl(path: Path) -> Path:
    """Qwen3-VL with its processor."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = save_tokenizer(path, _QWEN)
    ids = dict(zip(_QWEN, tokenizer.convert_tokens_to_ids(list(_QWEN)), strict=True))
    config = Qwen3VLConfig(
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config=_TEXT | {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(path)
    images = Qwen2VLImageProcessor(patch_size=16, merge_size=2, size={"shortest_edge": 1024, "longest_edge": 4096})
    Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=_TEMPLATE).save_pretrained(path)
    return path


def make_internvl(path: Path, image_size: int) -> Path:
    """InternVL 3 for images of ``image_size`` squared, with its tokenizer."""
    from transformers import InternVLConfig, InternVLModel

    tokenizer = save_tokenizer(path, _INTERN)
    patch = image_size // 4
    config = InternVLConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": [image_size, image_size],
            "patch_size": [patch, patch],
        },
        text_config={"model_type": "qwen2", **_TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    InternVLModel(config).save_pretrained(path)
    return path


def make_wall_oss(path: Path) -> Path:
    """Wall-X's mixture of experts in Qwen2.5-VL's clothes; it finds no weights to take over."""
    import torch
    from lerobot.policies.wall_x.qwen_model.configuration_qwen2_5_vl import Qwen2_5_VLConfig
    from safetensors.torch import save_file

    make_qwen2_5_vl(path)
    config = json.loads((path / "config.json").read_text())
    experts = [{"hidden_size": 32, "intermediate_size": 32, "hidden_act": "silu"}] * 2
    robot = {"dof_config": {"arm": 8}, "agent_pos_config": {"arm": 8}}
    config["text_config"] |= {"num_experts": 2, "experts": experts, "dim_inputs": [32, 32], "mlp_moe": True} | robot
    Qwen2_5_VLConfig(**config | robot).save_pretrained(path)
    save_file({"nothing": torch.zeros(1)}, path / "model.safetensors")
    save_tokenizer(path, (*_QWEN, "<|action|>", "<|propri|>"))
    return path


def make_fast_tokenizer(path: Path) -> Path:
    """An action tokenizer as pi0-FAST's hub has it, without its code."""
    make_tokenizer(path)
    (path / "processor_config.json").write_text(json.dumps({"scale": 10, "min_token": -97, "vocab_size": 320}))
    return path


_SHORT = {"chunk_size": 4, "n_action_steps": 4}
_NARROW = {"max_state_dim": 8, "max_action_dim": 8}
# Which option names the base model, and what makes one.
_BASES: Mapping[str, tuple[str, Callable[[Path], Path]]] = {
    "eo1": ("vlm_base", make_qwen2_5_vl),
    "evo1": ("vlm_model_name", lambda path: make_internvl(path, 32)),
    "pi0_fast": ("action_tokenizer_name", make_fast_tokenizer),
    "vla_jepa": ("qwen_model_name", make_qwen3_vl),
    "wall_x": ("pretrained_name_or_path", make_wall_oss),
}
_FLORENCE = {
    "vision_config": {
        "depths": [1],
        "embed_dim": [16],
        "num_heads": [2],
        "num_groups": [2],
        "patch_size": [7],
        "patch_stride": [4],
        "patch_padding": [3],
        "patch_prenorm": [False],
        "window_size": 4,
        "projection_dim": 16,
        "max_position_embeddings": 20,
        "max_temporal_embeddings": 10,
    },
    "text_config": {
        "model_type": "bart",
        "vocab_size": 320,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    },
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "eo1": _SHORT
    | _NARROW
    | {"num_denoise_steps": 2, "dtype": "float32", "image_min_pixels": 28 * 28, "image_max_pixels": 4 * 28 * 28},
    "evo1": _SHORT
    | _NARROW
    | {
        "max_views": 2,
        "image_resolution": (32, 32),
        "vlm_num_layers": 2,
        "vlm_dtype": "float32",
        "embed_dim": 32,
        "hidden_dim": 16,
        "state_hidden_dim": 16,
        "num_heads": 2,
        "num_layers": 1,
        "num_inference_timesteps": 3,
        "use_flash_attn": False,
    },
    "pi0_fast": {
        **_NARROW,
        "chunk_size": 8,
        "n_action_steps": 4,
        "image_resolution": (28, 28),
        "tokenizer_max_length": 64,
        "max_decoding_steps": 12,
        "fast_skip_tokens": 0,
        "validate_action_token_prefix": False,
    },
    "vla_jepa": _SHORT
    | {
        "enable_world_model": False,
        "num_embodied_action_tokens_per_instruction": 4,
        "action_hidden_size": 16,
        "action_num_layers": 1,
        "action_num_heads": 2,
        "action_attention_head_dim": 8,
        "num_target_vision_tokens": 2,
        "action_max_seq_len": 64,
        "num_inference_timesteps": 2,
        "torch_dtype": "float32",
        "gripper_dim": 5,
    },
    "wall_x": _SHORT | _NARROW,
    "xvla": _NARROW
    | {
        "chunk_size": 8,
        "n_action_steps": 8,
        "florence_config": _FLORENCE,
        "hidden_size": 16,
        "depth": 1,
        "num_heads": 2,
        "num_domains": 2,
        "len_soft_prompts": 2,
        "dim_time": 8,
        "action_mode": "auto",
        "num_denoising_steps": 3,
        "tokenizer_max_length": 48,
    },
}


def make_vla_folder(path: Path, family: str, **options: Any) -> Path:
    """A whole policy directory of ``family``, what it builds on in ``base/`` inside it."""
    bases: dict[str, Any] = {}
    if family in _BASES:
        option, make = _BASES[family]
        bases[option] = str(make(path / "base"))
    if family == "pi0_fast":
        bases["text_tokenizer_name"] = str(path / "tokenizer")
    return make_model_folder(path, family, **dict(OPTIONS[family]) | bases | options)


@contextmanager
def fast_tokenizer() -> Iterator[None]:
    """LeRobot's pi0-FAST, without the code that it fetches from a hub."""
    from lerobot.policies.pi0_fast import modeling_pi0_fast
    from lerobot.processor import tokenizer_processor
    from transformers import PreTrainedTokenizerFast

    def load(name: str, **_: Any) -> Any:
        return SimpleNamespace(bpe_tokenizer=PreTrainedTokenizerFast.from_pretrained(name), scale=10, min_token=-97)

    auto = SimpleNamespace(from_pretrained=load)
    with mock.patch.object(modeling_pi0_fast, "AutoProcessor", auto):
        with mock.patch.object(tokenizer_processor, "AutoProcessor", auto):
            yield
