"""What each step of a request costs its own thread, called alone: where a profile would look first."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.folders import CHUNK, STATE_DIM, make_observation
from inference_service.core.engine import check_batch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.wire.envelope import Reply, Request, decode_reply, decode_request, encode_reply, encode_request
from inference_service.wire.interfaces import deserialize, serialize, serialize_parts
from inference_service.wire.variants import VARIANTS_LIST


def step_costs(folder: Path, height: int, width: int, repeats: int) -> dict[str, float]:
    """Microseconds of thread time by step, medians, in the order in which a ``u8`` request takes them."""
    costs: dict[str, float] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        times = []
        result = None
        for _ in range(repeats):
            started = time.thread_time_ns()
            result = call()
            times.append((time.thread_time_ns() - started) / 1e3)
        costs[name] = round(median(times), 1)
        return result

    loaded = PolicyFolder.load(folder)
    preprocess, postprocess = TensorPreprocessor(loaded), TensorPostprocessor(loaded)
    observation = make_observation(height, width)
    prepared = step("device: preprocess", lambda: preprocess(observation))
    codecs = {key: "u8" for key in prepared.batch if "images" in key}
    request = Request(uuid.uuid4().hex, prepared.batch, device_id="d", session="s", sequence=1, deadline_ms=5e3)
    message = step("device: encode", lambda: encode_request(request, extended=True, codecs=codecs))
    step("device: serialise", lambda: serialize_parts(message, VARIANTS_LIST))
    cdr = serialize(message, VARIANTS_LIST)
    received = step("engine: deserialise", lambda: deserialize(cdr, VARIANTS_LIST))
    batch = step("engine: decode", lambda: decode_request(received)).batch
    step("engine: check", lambda: check_batch(batch, loaded.config.input_features))
    action = np.zeros((CHUNK, STATE_DIM), np.float32)
    timing = {"queue": 0.1, "decode": 0.1, "inference": 0.1, "encode": 0.0}
    reply = Reply(request.request_id, action, timing_ms=timing, device_id="d", session="s", engine_id="e")
    answer = step("engine: encode", lambda: encode_reply(reply, extended=True))
    answer_cdr = step("engine: serialise", lambda: serialize(answer, VARIANTS_LIST))
    back = step("device: deserialise", lambda: deserialize(answer_cdr, VARIANTS_LIST))
    chunk = step("device: decode", lambda: decode_reply(back)).action
    step("device: postprocess", lambda: postprocess(chunk, prepared.context))
    return costs
