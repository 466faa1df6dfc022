"""The demo policy of this repository: small files, readable by all, made by the script that says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.policy_folder import PolicyFolder
from inference_service.sim.gl import missing_egl

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "policies" / "so101_act_demo"


def test_files_are_small_and_readable_by_all() -> None:
    for file in DEMO.iterdir():
        assert file.stat().st_size <= 25_000_000, file
        assert file.stat().st_mode & 0o444 == 0o444, file


def test_each_camera_is_normalised_by_its_own_statistics() -> None:
    """LeRobot's ACT gives all cameras' features the same positions: nothing else tells two of one size apart."""
    safetensors = pytest.importorskip("safetensors.numpy")
    stats = safetensors.load_file(DEMO / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    top, wrist = (stats[f"observation.images.{camera}.mean"] for camera in ("top", "wrist"))
    assert top.shape == (3, 1, 1)
    assert np.abs(top - wrist).max() > 0.02


@pytest.mark.timeout(330)
def test_the_training_script_makes_a_policy_of_the_same_kind(tmp_path: Path) -> None:
    """A few steps of every stage: what comes out is no good at the task, and complete."""
    for library in ("lerobot", "onnx", "onnxruntime", "mujoco"):
        pytest.importorskip(library)
    if missing_egl():
        pytest.skip("needs OpenGL off screen")
    smoke = ["--episodes", "1", "--backbone-steps", "2", "--backbone-batch", "4", "--steps", "2", "--batch-size", "2"]
    command = [sys.executable, str(ROOT / "scripts" / "train_demo_policy.py"), str(tmp_path / "policy")]
    command += ["--work", str(tmp_path / "work"), *smoke]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made, shipped = PolicyFolder.load(tmp_path / "policy"), PolicyFolder.load(DEMO)
    assert made.config.raw == shipped.config.raw
    assert made.fingerprint != shipped.fingerprint
    assert {f.name for f in made.path.iterdir()} == {f.name for f in DEMO.iterdir()} - {"README.md"}
