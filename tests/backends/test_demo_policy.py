"""The demo policy of this repository: small files, readable by all, a slow closed motion from home."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_service.backends import onnx
from inference_service.core.coordinator import InferenceCoordinator
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor

DEMO = Path(__file__).resolve().parents[2] / "policies" / "so101_act_demo"
HOME = np.array([0, -0.6, 0.9, 0.6, 0, 0.6], np.float32)
TICK_S = 1 / 20


def test_files_are_small_and_readable_by_all() -> None:
    for file in DEMO.iterdir():
        assert file.stat().st_size <= 25_000_000, file
        assert file.stat().st_mode & 0o444 == 0o444, file


def test_the_arm_goes_round_slowly_and_without_jumps() -> None:
    """Driven for 20 s from home by an arm that follows perfectly, a new chunk every second, random pictures."""
    pytest.importorskip("onnxruntime")
    folder = PolicyFolder.load(DEMO)
    engine = PureInferenceEngine(onnx.load(folder, BackendOptions()))
    coordinator = InferenceCoordinator(TensorPreprocessor(folder), engine, TensorPostprocessor(folder))
    rng = np.random.default_rng(0)
    driven = [HOME]
    for _ in range(20):
        pictures = rng.integers(0, 256, (2, 480, 640, 3), np.uint8) // rng.integers(1, 9, dtype=np.uint8)
        observation = {
            "observation.state": driven[-1],
            "observation.images.top": pictures[0],
            "observation.images.wrist": pictures[1],
        }
        driven.extend(coordinator.infer(observation).actions[:20])
    path = np.array(driven)
    assert np.abs(np.diff(path, axis=0)).max() < 0.8 * TICK_S
    lap = path[-160:]
    assert (lap.max(0) - lap.min(0) > 0.3).all(), "every joint moves"
    assert np.abs(path[:240] - path[160:400]).max() < 0.1, "the same again after eight seconds"
    assert (path[:, :5] > -1.7).all() and (path < 1.7).all() and (path[:, 5] > 0).all()
