"""Whole LeRobot policies of every family that can be built small, with random weights: seconds and megabytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.families import make_family_folder

_RESNET = {"pretrained_backbone_weights": None, "spatial_softmax_num_keypoints": 4, "crop_shape": None}
_PI = {
    "chunk_size": 8,
    "n_action_steps": 8,
    "max_action_dim": 8,
    "max_state_dim": 8,
    "image_resolution": (28, 28),
    "num_inference_steps": 4,
    "tokenizer_max_length": 48,
}
SMALL: dict[str, dict[str, Any]] = {
    "act": {
        "pretrained_backbone_weights": None,
        "chunk_size": 8,
        "n_action_steps": 8,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 16,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
    },
    "diffusion": {
        **_RESNET,
        "horizon": 8,
        "n_action_steps": 4,
        "down_dims": (8, 16),
        "n_groups": 4,
        "diffusion_step_embed_dim": 8,
        "num_train_timesteps": 5,
    },
    "vqbet": {
        **_RESNET,
        "n_obs_steps": 3,
        "n_action_pred_token": 2,
        "action_chunk_size": 3,
        "gpt_n_layer": 1,
        "gpt_n_head": 2,
        "gpt_hidden_dim": 16,
        "gpt_input_dim": 16,
        "gpt_output_dim": 16,
        "gpt_block_size": 16,
        "vqvae_n_embed": 4,
        "vqvae_embedding_dim": 8,
        "vqvae_enc_hidden_dim": 8,
    },
    "multi_task_dit": {
        "horizon": 8,
        "n_action_steps": 4,
        "objective": "flow_matching",
        "num_integration_steps": 4,
        "hidden_dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "timestep_embed_dim": 8,
        "image_crop_shape": (32, 32),
    },
    "tdmpc": {
        "latent_dim": 8,
        "mlp_dim": 8,
        "image_encoder_hidden_dim": 4,
        "state_encoder_hidden_dim": 8,
        "n_gaussian_samples": 8,
        "n_pi_samples": 0,
        "n_elites": 4,
        "horizon": 3,
        "cem_iterations": 2,
    },
    "pi0": _PI,
    "pi05": _PI,
    "smolvla": {
        "chunk_size": 8,
        "n_action_steps": 8,
        "max_action_dim": 8,
        "max_state_dim": 8,
        "resize_imgs_with_padding": (32, 32),
        "num_steps": 4,
        "num_vlm_layers": 2,
        "num_expert_layers": 2,
        "expert_width_multiplier": 0.5,
    },
}
# LeRobot's TD-MPC finds a camera only where it is called observation.image, which our robots' are not.
CAMERAS: dict[str, tuple[str, ...]] = {"vqbet": ("top",), "tdmpc": ()}
IMAGE = (40, 40)


def cameras_of(family: str) -> Sequence[str]:
    return CAMERAS.get(family, ("top", "left_wrist"))


def make_model_folder(path: Path, family: str, *, seed: int = 0, **options: Any) -> Path:
    """A whole policy directory of ``family``; ``options`` change its configuration. Within :func:`small_models`."""
    import torch
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    make_family_folder(path, family, image=IMAGE, cameras=cameras_of(family), **(SMALL.get(family, {}) | options))
    config = PreTrainedConfig.from_pretrained(path)
    config.device = "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = get_policy_class(family)(config)
        for parameter in policy.parameters():
            if not parameter.any():
                # Some layers begin at zero, so that an untrained model looks at nothing.
                torch.nn.init.normal_(parameter, std=0.1)
        policy.save_pretrained(path)
    return path


@contextmanager
def small_models() -> Iterator[None]:
    """The backbones that LeRobot builds or asks a hub for are small ones, without weights."""
    from lerobot.policies.multi_task_dit import modeling_multi_task_dit
    from lerobot.policies.pi0 import modeling_pi0
    from lerobot.policies.pi0_fast import modeling_pi0_fast
    from lerobot.policies.pi05 import modeling_pi05
    from lerobot.policies.smolvla import smolvlm_with_expert

    with ExitStack() as stack:
        for module in (modeling_pi0, modeling_pi05, modeling_pi0_fast):
            stack.enter_context(mock.patch.object(module, "get_gemma_config", _gemma))
            sizes = {"paligemma": _paligemma, "gemma": _expert}
            stack.enter_context(mock.patch.object(module, "CONFIG_MAPPING", sizes))
            name = "PaliGemmaForConditionalGenerationWithPiGemma"
            stack.enter_context(mock.patch.object(module, name, _shrunk(getattr(module, name))))
        for name, result in (("AutoConfig", _smolvlm()), ("AutoProcessor", _processor())):
            fake = stack.enter_context(mock.patch.object(smolvlm_with_expert, name))
            fake.from_pretrained.return_value = result
        for name, build in (("CLIPVisionModel", _clip_vision), ("CLIPTextModel", _clip_text)):
            fake = stack.enter_context(mock.patch.object(modeling_multi_task_dit, name))
            fake.from_pretrained.side_effect = build
        yield


def _gemma(variant: str) -> Any:
    return SimpleNamespace(width=16, depth=2, mlp_dim=16, num_heads=2, num_kv_heads=1, head_dim=8)


def _paligemma() -> Any:
    from transformers.models.auto import CONFIG_MAPPING

    return CONFIG_MAPPING["paligemma"](
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        projection_dim=16,
    )


def _shrunk(original: Any) -> Any:
    """LeRobot writes some sizes into the configuration itself."""

    def build(config: Any) -> Any:
        config.vision_config.projection_dim = config.vision_config.intermediate_size = 16
        config.text_config.vocab_size = 320
        return original(config=config)

    return build


def _expert(**options: Any) -> Any:
    from transformers.models.auto import CONFIG_MAPPING

    return CONFIG_MAPPING["gemma"](**(options | {"vocab_size": 320}))


def _smolvlm() -> Any:
    from transformers.models.auto import CONFIG_MAPPING

    return CONFIG_MAPPING["smolvlm"](
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "patch_size": 8,
            "image_size": 32,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": 320,
            "pad_token_id": 0,
        },
        scale_factor=2,
    )


def _processor() -> Any:
    return SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=1, global_image_token_id=2))


_CLIP = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _clip_vision(name: str) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_CLIP, image_size=32, patch_size=16))


def _clip_text(name: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**_CLIP, vocab_size=320, eos_token_id=1))
