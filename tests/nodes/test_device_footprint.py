"""The device's process in distributed mode: no torch, no transformers, no LeRobot, at most 100 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families import make_plain_language_folder
from tests.nodes.harness import POLICY, ROBOT, ROOT

FORBIDDEN = ("torch", "transformers", "lerobot", "onnxruntime", "cv2", "huggingface_hub", "mujoco", "matplotlib")
GOAL_KB = 100 * 1000
PROGRAM = """
import json, re, sys
import numpy as np
from pathlib import Path
from inference_service.nodes.policy_node import PolicyParameters, start
from inference_service.transport import create_node

policy, robot, prompt = sys.argv[1:]
node = create_node("act_inference_node")
parameters = PolicyParameters(checkpoint=policy, robot_config_path=robot, execution_mode="distributed")
device = start(node, parameters)
rng = np.random.default_rng(0)
for _ in range(5):
    keys = [key for key in device._folder.config.input_features if "images" in key]
    pictures = {key: rng.integers(0, 256, (480, 640, 3), np.uint8) for key in keys}
    observation = {"observation.state": np.zeros(6, np.float32), **pictures, **({"task": prompt} if prompt else {})}
    prepared = device._runner._preprocessor(observation)
    chunk = np.zeros((device._folder.config.chunk_size, 6), np.float32)
    device._runner._postprocessor(chunk, prepared.context)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"modules": sorted({m.split(".")[0] for m in sys.modules}), "peak_kb": peak}))
device.close()
node.close()
"""


@pytest.mark.parametrize("language", [False, True], ids=["act", "a policy that reads prompts"])
def test_a_device_stays_small(tmp_path: Path, domain_id: int, language: bool) -> None:
    policy = POLICY
    if language:
        pytest.importorskip("tokenizers")
        policy = make_plain_language_folder(tmp_path / "policy")
    words = [sys.executable, "-c", PROGRAM, str(policy), str(ROBOT), "reach the cube" if language else ""]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert not set(found["modules"]) & set(FORBIDDEN)
    assert ("tokenizers" in found["modules"]) == language
    assert found["peak_kb"] <= GOAL_KB
