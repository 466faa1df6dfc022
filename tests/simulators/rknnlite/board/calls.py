"""Calls that RKNNLite answers in its own way, and how: the same table for the real wheel and for its stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STATE, TOP = np.ones((1, 6), np.float32), np.ones((1, 8, 10, 3), np.float32)
NCHW = np.ones((1, 3, 8, 10), np.float32)
Call = Callable[[Any], Any]

# call: its outcome, by B.1 of what was measured on the wheels
INFERENCES: dict[str, tuple[Call, str]] = {
    "good": (lambda lite: lite.inference([STATE, TOP], data_format="nhwc"), "float32 1x4x6"),
    "no format": (lambda lite: lite.inference([STATE, TOP]), "float32 1x4x6"),
    "nchw": (lambda lite: lite.inference([STATE, NCHW], data_format="nchw"), "float32 1x4x6"),
    "list of formats": (lambda lite: lite.inference([STATE, TOP], data_format=["nchw", "nhwc"]), "float32 1x4x6"),
    "short list of formats": (lambda lite: lite.inference([STATE, TOP], data_format=["nhwc"]), "None"),
    "capitals": (lambda lite: lite.inference([STATE, TOP], data_format=["NCHW", "NHWC"]), "None"),
    "another rank": (lambda lite: lite.inference([STATE, TOP[0]], data_format="nhwc"), "None"),
    "too small": (lambda lite: lite.inference([STATE, TOP[:, :4]], data_format="nhwc"), "None"),
    "one input too few": (lambda lite: lite.inference([STATE]), "None"),
    "one input too many": (lambda lite: lite.inference([STATE, TOP, STATE]), "None"),
    "tuple": (lambda lite: lite.inference((STATE, TOP)), "None"),
    "float64": (lambda lite: lite.inference([STATE.astype(np.float64), TOP]), "None"),
    "big endian": (lambda lite: lite.inference([STATE.astype(">f4"), TOP]), "None"),
    "NaN": (lambda lite: lite.inference([STATE * np.nan, TOP]), "float32 1x4x6"),
}
STARTS: dict[str, tuple[dict[str, Any], str]] = {
    "as it is": ({}, "0"),
    "on a target": ({"target": "rk3588"}, "-1"),
    "core 2": ({"core_mask": 4}, "0"),
    "all cores": ({"core_mask": 0xFFFF}, "0"),
    "cores 0 and 2": ({"core_mask": 5}, "-1"),
    "no mask": ({"core_mask": None}, "-1"),
}


def outcomes(kind: Any, model: Path) -> dict[str, str]:
    """What each call of the tables comes to with ``kind``, an RKNNLite class, and ``model`` (state and picture)."""
    found: dict[str, str] = {}
    for name, (arguments, _) in STARTS.items():
        lite = kind()
        lite.load_rknn(str(model))
        found[name] = outcome(lambda lite=lite, arguments=arguments: lite.init_runtime(**arguments))
        lite.release()
    lite = kind()
    found["before load_rknn"] = outcome(lambda: lite.init_runtime())
    lite.load_rknn(str(model))
    lite.init_runtime()
    for name, (call, _) in INFERENCES.items():
        found[name] = outcome(lambda call=call: call(lite))
    lite.release()
    lite.release()
    found["after release"] = outcome(lambda: lite.inference([STATE, TOP]))
    return found


def expected() -> dict[str, str]:
    """The outcomes as they were measured."""
    table = {name: result for name, (_, result) in (*STARTS.items(), *INFERENCES.items())}
    return table | {"before load_rknn": "-1", "after release": "None"}


def outcome(call: Callable[[], Any]) -> str:
    result = call()
    if isinstance(result, list):
        return " ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in result)
    return str(result)
