"""Runs on the emulated board: this package's session and backend over the real RKNNLite; prints one JSON object.

``program.py MODEL POLICY INPUTS``: a model of the stand-in library with a state and a picture, a policy directory, and
an .npz with ``state`` and ``top`` (NHWC) of several questions.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from calls import outcomes

from inference_service.backends.compiled.rknn import load
from inference_service.backends.compiled.rknn_session import RKNNRuntimeSession
from inference_service.backends.compiled.session import TensorSpec
from inference_service.core.errors import BackendError
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder

FLOAT = np.dtype(np.float32)
INPUTS = [TensorSpec("state", (1, 6), FLOAT), TensorSpec("top", (1, 8, 10, 3), FLOAT, "NHWC")]


def attempt(call: Any) -> Any:
    """What ``call`` returns, or class and text of the error."""
    try:
        return call()
    except BackendError as error:
        return f"{type(error).__name__}: {error}"


def with_faults(faults: str, model: Path, cores: list[str], questions: list[list[Any]]) -> list[Any]:
    """The answers of a session to ``questions``, the library failing as ``faults`` says."""
    os.environ["RKNN_STUB_FAULTS"] = faults
    session = attempt(lambda: RKNNRuntimeSession(model, INPUTS, cores))
    if isinstance(session, str):
        return [session]
    answers = [attempt(lambda given=given: session.run(given)[0].tolist()) for given in questions]
    session.close()
    return [*answers, dict(session.versions)]


def main(model: Path, policy: Path, inputs: Path) -> dict[str, Any]:
    archive = np.load(inputs)
    questions = [[state, top] for state, top in zip(archive["state"], archive["top"], strict=True)]
    damaged = model.with_name("damaged.rknn")
    damaged.write_bytes(model.read_bytes()[:1000])
    results = {
        "sound": with_faults("", model, ["auto"], questions),
        "pool": with_faults("", model, ["0", "1", "2"], questions),
        # Of each object the first inference proves it.
        "run fails once": with_faults("run:3=-1", model, ["auto"], questions),
        # The wheel loads the library anew with each context, and its faults are counted anew.
        "run fails until rebuilt": with_faults("run:3+=-1", model, ["auto"], questions),
        "run never works": with_faults("run:1+=-1", model, ["auto"], questions),
        "no outputs": with_faults("outputs_get:3=-9", model, ["auto"], questions),
        "core mask refused": with_faults("set_core_mask:1=-1", model, ["0_1"], questions),
        "out of memory": with_faults("init:1=-4", model, ["auto"], questions),
        "damaged": with_faults("", damaged, ["auto"], questions),
    }
    os.environ["RKNN_STUB_FAULTS"] = ""
    loaded = load(PolicyFolder.load(policy), BackendOptions())
    state, top = questions[0]
    batch = {"observation.state": state, "observation.images.top": top.transpose(0, 3, 1, 2)}
    results["backend"] = [loaded.predict_action_chunk(batch).tolist(), dict(loaded.spec.versions)]
    loaded.close()
    from rknnlite.api import RKNNLite

    return results | {"outcomes": outcomes(RKNNLite, model)}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(*map(Path, sys.argv[1:4]))) + "\n")
