"""Policy directories and observations of any image size, without weights: the demonstration's own files, resized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO_POLICY = ROOT / "policies" / "so101_act_demo"
ROBOT = ROOT / "robot_config" / "robots" / "so101_sim.yaml"
CHUNK = 100
STATE_DIM = 6
CAMERAS = ("top", "wrist")
BACKEND = "constant"


def make_folder(path: Path, height: int, width: int, chunk: int = CHUNK) -> Path:
    """The demonstration's policy for cameras of ``height`` x ``width``, chunks of ``chunk``; no weights."""
    path.mkdir(parents=True, exist_ok=True)
    for file in DEMO_POLICY.iterdir():
        if file.name.startswith("policy_") and file.suffix == ".safetensors":
            shutil.copyfile(file, path / file.name)
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
        content = json.loads((DEMO_POLICY / name).read_text())
        _resize(content, [3, height, width])
        if name == "config.json":
            content.update(chunk_size=chunk, n_action_steps=chunk)
        (path / name).write_text(json.dumps(content, indent=2))
    return path


def _resize(node: Any, shape: list[int]) -> None:
    """Give every visual feature below ``node`` that shape."""
    if isinstance(node, dict):
        if node.get("type") == "VISUAL" and "shape" in node:
            node["shape"] = shape
        for value in node.values():
            _resize(value, shape)
    elif isinstance(node, list):
        for value in node:
            _resize(value, shape)


def make_plugin(path: Path) -> Path:
    """Metadata of a distribution whose one entry point is the constant policy; belongs on PYTHONPATH."""
    info = path / "benchmarks_constant_policy-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmarks-constant-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[inference_service.backends]\n{BACKEND} = benchmarks.constant:load\n")
    return path


def picture_bytes(height: int, width: int) -> int:
    """What the cameras give for one inference, uncompressed."""
    return len(CAMERAS) * height * width * 3


def make_observation(height: int, width: int, seed: int = 0) -> dict[str, Any]:
    """uint8 (H, W, 3) pictures with the smooth shades and the noise of a camera's, and a float32 state."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    observation: dict[str, Any] = {"observation.state": rng.uniform(-1, 1, STATE_DIM).astype(np.float32)}
    for camera in CAMERAS:
        phase = rng.uniform(0, 6, 3)
        shades = [
            110 + 60 * np.sin(rows / height * 4 + p) + 50 * np.sin(columns / width * 5 + 2 * p) for p in phase.tolist()
        ]
        noisy = np.stack(shades, axis=-1) + rng.normal(0, 5, (height, width, 3))
        observation[f"observation.images.{camera}"] = noisy.clip(0, 255).astype(np.uint8)
    return observation
