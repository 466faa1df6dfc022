"""LeRobot's own local path: ``predict_action`` on numpy pictures, with a model that costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from lerobot.common.control_utils import predict_action

from benchmarks.folders import make_observation
from benchmarks.peers.lerobot_policy import load
from benchmarks.worker import Side, serve, timed


class Local(Side):
    """A round is one ``predict_action``; with ``chunk`` its postprocessor gets the whole chunk, as ours does."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({"torch": torch.__version__, "threads": torch.get_num_threads()})
        self._model, self._pre, self._post = load(config["folder"])
        if config.get("chunk"):
            self._model.select_action = self._model.predict_action_chunk  # type: ignore[method-assign]
        self._observation = make_observation(config["height"], config["width"])
        self._device = torch.device("cpu")

    def _predict(self) -> None:
        action = predict_action(self._observation, self._model, self._device, self._pre, self._post, use_amp=False)
        action.numpy()

    def round(self) -> Mapping[str, float]:
        return timed(self._predict)


def make(config: dict[str, Any]) -> Side:
    return Local(config)


if __name__ == "__main__":
    sys.exit(serve(make))
