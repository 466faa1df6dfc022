"""Policy folders of LeRobot's families, processors only, and a toy tokenizer for those that read language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.policies import Norm, features_of, norm_mapping, random_stats, write_processor

TEXT = "Task: pick up the red cube and place it on the left, State: 0 1 2 3 4 5 6 7 8 9 -1 127 255;\nAction: _"
PROMPT = "pick_up the red cube\nplease"


def make_tokenizer(path: Path, **config: Any) -> Path:
    """A byte-level BPE tokenizer that knows few words, begins with ``<bos>`` and pads with ``<pad>``; ``config`` goes
    into tokenizer_config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
    } | config
    (path / "tokenizer_config.json").write_text(json.dumps(written))
    return path


def make_plain_language_folder(path: Path, **tokenizer_options: Any) -> Path:
    """A pi0-like folder written by hand without LeRobot, its tokenizer beside it. State 6, action 6, no statistics."""
    inputs, outputs = features_of((32, 32), ("top",), 6, 6)
    path.mkdir(parents=True, exist_ok=True)
    config = {"type": "pi0", "chunk_size": 10, "input_features": inputs, "output_features": outputs}
    (path / "config.json").write_text(json.dumps(config))
    options = {"tokenizer_name": "google/paligemma-3b-pt-224", "max_length": 48} | tokenizer_options
    pre = [
        ("to_batch_processor", {}),
        ("pi0_new_line_processor", {}),
        ("tokenizer_processor", options),
        ("relative_actions_processor", {"enabled": True, "exclude_joints": [], "action_names": None}),
    ]
    write_processor(path, "policy_preprocessor", pre, {})
    write_processor(path, "policy_postprocessor", [("absolute_actions_processor", {"enabled": True})], {})
    make_tokenizer(path / "tokenizer")
    return path


def make_family_folder(
    path: Path,
    family: str,
    *,
    norm: Norm | None = None,
    image: tuple[int, int] = (32, 48),
    cameras: Sequence[str] = ("top", "left_wrist"),
    **options: Any,
) -> Path:
    """config.json and processors of ``family`` as LeRobot writes them, with random statistics; ``options`` are the
    configuration's. Needs lerobot, and transformers for families that read language."""
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import make_policy_config, make_pre_post_processors

    import torch  # isort: skip

    inputs, outputs = features_of(image, cameras, 6, 6)
    parsed = [
        {name: PolicyFeature(type=FeatureType(f["type"]), shape=tuple(f["shape"])) for name, f in features.items()}
        for features in (inputs, outputs)
    ]
    if norm is not None:
        options["normalization_mapping"] = {kind: NormalizationMode(mode) for kind, mode in norm_mapping(norm).items()}
    config = make_policy_config(
        family, input_features=parsed[0], output_features=parsed[1], device="cpu", push_to_hub=False, **options
    )
    stats = {
        name: {key: torch.from_numpy(value.copy()) for key, value in own.items()}
        for name, own in random_stats(inputs | outputs).items()
    }
    path.mkdir(parents=True, exist_ok=True)
    make_tokenizer(path / "tokenizer")
    config.save_pretrained(path)
    with tokenizer_of(path):
        for pipeline in make_pre_post_processors(config, dataset_stats=stats):
            pipeline.save_pretrained(path)
    return path


@contextmanager
def tokenizer_of(path: Path) -> Iterator[None]:
    """Whatever tokenizer LeRobot asks a hub for, it gets that of the folder ``path``."""
    from lerobot.processor import tokenizer_processor

    if tokenizer_processor.AutoTokenizer is None:
        yield
        return
    load = tokenizer_processor.AutoTokenizer.from_pretrained
    with mock.patch.object(tokenizer_processor, "AutoTokenizer") as fake:
        fake.from_pretrained.side_effect = lambda name, **kwargs: load(str(path / "tokenizer"))
        yield


def lerobot_pipelines(path: Path) -> Any:
    """LeRobot's own pre- and postprocessor of the folder."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors

    with tokenizer_of(path):
        return make_pre_post_processors(PreTrainedConfig.from_pretrained(path), pretrained_path=str(path))
