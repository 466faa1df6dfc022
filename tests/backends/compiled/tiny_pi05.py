"""A real LeRobot PI0.5 policy of a few hundred kilobytes, and its two graphs as an exporter for Ascend makes them.

LeRobot knows two sizes of Gemma and one of SigLIP by name, billions of weights each. Inside :func:`small_backbones` its
classes build theirs with a width of 32 and two layers; everything that they compute stays theirs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.families import make_family_folder

WIDTH, DEPTH, HEAD, VOCABULARY = 32, 2, 16, 512
IMAGE, CHUNK, PADDED_DIM, TOKENS = 28, 8, 16, 48


@contextmanager
def small_backbones() -> Iterator[None]:
    """Inside, LeRobot's PI0.5 is small, whether it is made or loaded."""
    from lerobot.policies.pi05 import modeling_pi05 as pi05

    gemma = pi05.GemmaConfig(width=WIDTH, depth=DEPTH, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=HEAD)
    paligemma, expert = pi05.PaliGemmaForConditionalGenerationWithPiGemma, pi05.PiGemmaForCausalLM

    def small_paligemma(config: Any) -> Any:
        config.text_config.vocab_size = config._vocab_size = config.image_token_index = VOCABULARY
        config.vision_config.projection_dim = config.projection_dim = WIDTH
        config.vision_config.hidden_size, config.vision_config.intermediate_size = WIDTH, 64
        config.vision_config.num_hidden_layers, config.vision_config.num_attention_heads = 1, 2
        return paligemma(config=config)

    def small_expert(config: Any) -> Any:
        config.vocab_size = VOCABULARY
        return expert(config=config)

    with ExitStack() as stack:
        for name, replacement in (
            ("get_gemma_config", lambda variant: gemma),
            ("PaliGemmaForConditionalGenerationWithPiGemma", small_paligemma),
            ("PiGemmaForCausalLM", small_expert),
        ):
            stack.enter_context(mock.patch.object(pi05, name, replacement))
        yield


def make_tiny_pi05(path: Path) -> Any:
    """A policy directory with random weights, processors and a tokenizer. Returns LeRobot's policy object."""
    import torch
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.pi05.modeling_pi05 import PI05Policy

    options = {"chunk_size": CHUNK, "n_action_steps": CHUNK, "max_action_dim": PADDED_DIM, "dtype": "float32"}
    make_family_folder(
        path, "pi05", image=(IMAGE, IMAGE), image_resolution=(IMAGE, IMAGE), tokenizer_max_length=TOKENS, **options
    )
    torch.manual_seed(0)
    with small_backbones():
        policy = PI05Policy(PreTrainedConfig.from_pretrained(path)).eval()
    for parameter in policy.parameters():
        # As made, the layers that let pictures and prompt matter are all but zero.
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1)
    policy.save_pretrained(path)
    return policy


def export(policy: Any, vlm: Path, expert: Path, half: bool = True) -> None:
    """The two graphs with the names, shapes and types of an export for Ascend, opset 17. ``half``: what goes from one
    to the other is float16, as on the board."""
    import torch

    names = [*policy.config.image_features]
    size = len(names) * (IMAGE // 14) ** 2 + TOKENS
    image = torch.zeros(1, 3, IMAGE, IMAGE)
    language = torch.zeros(1, TOKENS, dtype=torch.int64), torch.ones(1, TOKENS, dtype=torch.bool)
    mask = torch.zeros(1, 1, size, size)
    kind = torch.float16 if half else torch.float32
    make_prefix, make_expert = _modules(torch, kind)
    prefix = make_prefix(policy.model)
    outputs = ["past_kv_tensor", "prefix_pad_masks"]
    _export(
        torch,
        prefix,
        (*[image] * len(names), *language, mask),
        vlm,
        [*names, "lang_tokens", "lang_masks", "prefix_att_2d_masks_4d"],
        outputs,
    )
    kv, pads = prefix(*[image] * len(names), *language, mask)
    inputs = kv, pads, torch.ones(1), torch.zeros(1, CHUNK, PADDED_DIM)
    _export(torch, make_expert(policy.model), inputs, expert, [*outputs, "time", "x_t"], ["action"])


def _modules(torch: Any, kind: Any) -> Any:
    """What of LeRobot's model goes into each graph."""
    from transformers import DynamicCache

    class Prefix(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            *images, tokens, masks, attention = inputs
            # Mapping [0, 1] to [-1, 1] belongs to the graph, the attention mask does not.
            seen = [torch.ones(1, dtype=torch.bool) for _ in images]
            embedded, pads, _ = self.model.embed_prefix([image * 2 - 1 for image in images], seen, tokens, masks)
            backbone = self.model.paligemma_with_expert
            backbone.paligemma.model.language_model.config._attn_implementation = "eager"
            _, cache = backbone.forward(
                attention_mask=attention,
                position_ids=torch.cumsum(pads, dim=1) - 1,
                inputs_embeds=[embedded, None],
                use_cache=True,
            )
            layers = [torch.stack((keys, values)) for keys, values, *_ in cache]
            return torch.stack(layers).to(kind), pads

    class Expert(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, cache: Any, pads: Any, time: Any, x_t: Any) -> Any:
            layers = tuple((layer[0], layer[1], None) for layer in cache.float())
            return self.model.denoise_step(pads, DynamicCache(layers), x_t, time)

    return Prefix, Expert


def _export(torch: Any, module: Any, inputs: Any, file: Path, names: list[str], outputs: list[str]) -> None:
    """ONNX adds up no booleans, which LeRobot does."""
    add_up = torch.cumsum
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), warnings.catch_warnings(), mock.patch.object(torch, "cumsum") as cumsum:
        cumsum.side_effect = lambda values, dim: add_up(values.long() if values.dtype == torch.bool else values, dim)
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, str(file), input_names=names, output_names=outputs, opset_version=17, dynamo=False
        )
