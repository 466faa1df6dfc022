"""The device needs no torch: loading a policy and running both pipelines imports none of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.policies import make_plain_folder

PROGRAM = """
import sys, numpy as np
import inference_service.core as core, importlib, pkgutil
for module in pkgutil.walk_packages(core.__path__, core.__name__ + "."):
    importlib.import_module(module.name)
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.core.postprocessor import TensorPostprocessor
folder = PolicyFolder.load(sys.argv[1])
cameras = {f"observation.images.{name}": np.zeros((480, 640, 3), np.uint8) for name in ("top", "wrist")}
prepared = TensorPreprocessor(folder)({"observation.state": np.zeros(6, np.float32), "task": "", **cameras})
prepared.batch["observation.images.top"].materialise()
TensorPostprocessor(folder)(np.zeros((20, 6), np.float32), prepared.context)
with folder.runtime_config_copy("cpu"):
    folder.fingerprint
print(sorted(name for name in sys.modules if "." not in name))
"""

FORBIDDEN = {
    "torch",
    "lerobot",
    "transformers",
    "tokenizers",
    "onnxruntime",
    "cyclonedds",
    "rosbags",
    "rclpy",
    "PIL",
    "cv2",
}


def test_core_runs_without_heavy_libraries(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(make_plain_folder(tmp_path / "policy"))]
    run = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.strip(" []\n").replace("'", "").split(", "))
    assert "numpy" in loaded
    assert not loaded & FORBIDDEN


def test_core_imports_no_other_room() -> None:
    """Imports run downhill: core is the ground floor."""
    program = PROGRAM.split("from inference_service.core.policy_folder")[0] + (
        "print([m for m in sys.modules if m.startswith(('inference_service.', 'robot_config')) "
        "and not m.startswith('inference_service.core')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
