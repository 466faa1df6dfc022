"""What both LeRobot peers need: the policy's processors, a model that costs nothing, and a log that stays quiet."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

THREADS = 2


class ConstantModel:
    """Stands where LeRobot's policy stands; answers at once."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._chunk = torch.linspace(-1, 1, config.chunk_size * 6).reshape(1, config.chunk_size, 6)

    def predict_action_chunk(self, _batch: Any) -> torch.Tensor:
        return self._chunk

    def select_action(self, _batch: Any) -> torch.Tensor:
        return self._chunk[:, 0]


def load(folder: str) -> tuple[ConstantModel, Any, Any]:
    """The model, the preprocessor and the postprocessor of a policy directory, on the CPU."""
    logging.disable(logging.INFO)
    torch.set_num_threads(THREADS)
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = "cpu"
    pre, post = make_pre_post_processors(
        config,
        pretrained_path=folder,
        preprocessor_overrides={"device_processor": {"device": "cpu"}},
        postprocessor_overrides={"device_processor": {"device": "cpu"}},
    )
    return ConstantModel(config), pre, post
