"""Small artifacts for the simulators: ONNX graphs of the shapes that policies have, and folders around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import parser

from policies import make_plain_folder

SIMULATORS = Path(__file__).resolve().parents[2] / "simulators"
CHUNK, DIM, IMAGE = 4, 6, (8, 8)
STATE, TOP, WRIST = "observation.state", "observation.images.top", "observation.images.wrist"

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>'

ACT = f"""{_HEAD}
act (float[1,6] state, float[1,3,8,8] top, float[1,3,8,8] wrist) => (float[1,4,6] action)
<float[1] ten = {{10}}, float[1,4,1] steps = {{0, 1, 2, 3}}, int64[3] row = {{1, 1, 6}}> {{
   first = ReduceMean<keepdims=0>(top)
   second = ReduceMean<keepdims=0>(wrist)
   tenfold = Mul(second, ten)
   sum = Add(first, tenfold)
   moved = Add(state, sum)
   base = Reshape(moved, row)
   action = Add(base, steps)
}}"""

# S = 2 cameras of 4 tokens each + 5 language tokens.
VLM = f"""{_HEAD}
vlm (float[1,3,16,16] left, float[1,3,16,16] right, int64[1,5] lang_tokens, bool[1,5] lang_masks,
     float[1,1,13,13] prefix_att_2d_masks_4d)
    => (float16[2,2,1,1,13,4] past_kv_tensor, bool[1,13] prefix_pad_masks)
<float[1] two = {{2}}, float[1] zero = {{0}}, int64[2] flat = {{1, 13}}, int64[6] shape = {{2, 2, 1, 1, 13, 4}}> {{
   a = ReduceMean<keepdims=0>(left)
   b = ReduceMean<keepdims=0>(right)
   bb = Mul(b, two)
   ab = Add(a, bb)
   tokens = Cast<to=1>(lang_tokens)
   masks = Cast<to=1>(lang_masks)
   heard = Mul(tokens, masks)
   mean = ReduceMean<keepdims=0>(heard)
   sum = Add(ab, mean)
   wide = Expand(sum, shape)
   past_kv_tensor = Cast<to=10>(wide)
   best = ReduceMax<axes=[2], keepdims=0>(prefix_att_2d_masks_4d)
   row = Reshape(best, flat)
   prefix_pad_masks = Equal(row, zero)
}}"""

_VELOCITY = """
   kv = Cast<to=1>(past_kv_tensor)
   context = ReduceMean<keepdims=0>(kv)
   pads = Cast<to=1>(prefix_pad_masks)
   seen = ReduceMean<keepdims=0>(pads)
   timed = Mul(x_t, time)
   hearing = Add(timed, context)
"""


def expert(integrates: bool, steps: int = 10) -> str:
    """velocity = x_t * time + mean(kv) + mean(pad); or x_t - velocity / steps where it ``integrates``."""
    last = (
        "velocity = Add(hearing, seen)\n delta = Mul(velocity, dt)\n action = Add(x_t, delta)"
        if integrates
        else "action = Add(hearing, seen)"
    )
    return f"""{_HEAD}
expert (float16[2,2,1,1,13,4] past_kv_tensor, bool[1,13] prefix_pad_masks, float[1] time, float[1,4,8] x_t)
    => (float[1,4,8] action)
<float[1] dt = {{{-1.0 / steps}}}> {{
{_VELOCITY}
   {last}
}}"""


def save(text: str, path: Path, rename: dict[str, str] | None = None, **metadata: str) -> Path:
    """Write the graph; the parser knows no dots, so ``rename`` gives inputs their names."""

    model = parser.parse_model(text)
    for node in model.graph.node:
        node.input[:] = [(rename or {}).get(name, name) for name in node.input]
    for value in model.graph.input:
        value.name = (rename or {}).get(value.name, value.name)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_sidecar(folder: Path, name: str = "config.om.json", **content: Any) -> None:
    document = {"schema_version": 1, "policy_type": "act", "backend": "ascend_om", "artifacts": {"policy": "om/act.om"}}
    (folder / name).write_text(json.dumps(document | content))


def make_act(path: Path, text: str = ACT, rename: dict[str, str] | None = None, **sidecar: Any) -> Path:
    """A policy folder with a small ACT-shaped ``om/act.om`` whose inputs have the features' names."""
    make_plain_folder(path, image=IMAGE, chunk_size=CHUNK)
    names = {"state": STATE, "top": TOP, "wrist": WRIST} if rename is None else rename
    save(text, path / "om" / "act.om", names)
    write_sidecar(path, **sidecar)
    return path


def make_pi05(path: Path, integrates: bool = False, **sidecar: Any) -> Path:
    """A policy folder with a small vlm and action expert."""
    make_plain_folder(path, image=(12, 16), cameras=("left", "right"), chunk_size=CHUNK, type="pi05")
    names = {"left": "observation.images.left", "right": "observation.images.right"}
    save(VLM, path / "vlm.om", names)
    save(expert(integrates), path / "action_expert.om")
    content: dict[str, Any] = {
        "policy_type": "pi05",
        "artifacts": {"vlm": "vlm.om", "action_expert": "action_expert.om"},
        "execution": ["vlm", "action_expert"],
        "denoising": {"model_output": "x_t" if integrates else "velocity"},
    }
    write_sidecar(path, **content | sidecar)
    return path
