"""The stand-in worker objects to every broken rule of the protocol; else its empty journal would mean nothing."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulators.sd3403.rig import SD3403Simulator, stub_model

MAGIC = 0x53565031


def header(magic: int = MAGIC, version: int = 1, count: int = 2, request_id: int = 1, reserved: int = 0) -> bytes:
    return struct.pack("<IHHII", magic, version, count, request_id, reserved)


def entry(index: int, values: list[float], reserved: int = 0) -> bytes:
    data = np.asarray(values, "<f4").tobytes()
    return struct.pack("<III", index, len(data), reserved) + data


GOOD = entry(0, [1, 2]) + entry(1, [3])
# breach: (rule, request, perhaps another after its reply)
BREACHES: Mapping[str, tuple[Any, ...]] = {
    "magic in the wrong byte order": ("header", header(magic=0x31505653) + GOOD),
    "another version": ("header", header(version=2) + GOOD),
    "reserved word of the header": ("header", header(reserved=1) + GOOD),
    "one input too few": ("input count", header(count=1) + entry(0, [1, 2])),
    "one input too many": ("input count", header(count=3) + GOOD + entry(2, [1])),
    "request id 0": ("request id", header(request_id=0) + GOOD),
    "request id that does not follow": ("request id", header() + GOOD, header(request_id=3) + GOOD),
    "inputs out of order": ("input entry", header() + entry(1, [1, 2]) + entry(0, [3])),
    "reserved word of an input": ("input entry", header() + entry(0, [1, 2], reserved=7) + entry(1, [3])),
    "a payload of half precision": ("input size", header() + entry(0, [1]) + entry(1, [3])),
    "NaN": ("finite", header() + entry(0, [1, float("nan")]) + entry(1, [3])),
    "infinity": ("finite", header() + entry(0, [1, float("inf")]) + entry(1, [3])),
    "the next request before the reply": ("in flight", header() + GOOD + header(request_id=2) + GOOD),
    "a request cut in its header": ("truncated", header()[:7]),
    "a request cut in a payload": ("truncated", header() + GOOD[:-1]),
}


def talk(simulator: SD3403Simulator, model: Path, *requests: bytes, **environment: str) -> bytes:
    """What it writes; each request but the first comes after the reply to the one before."""
    process = subprocess.Popen(
        [simulator.script, "--model", model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=os.environ | environment,
    )
    assert process.stdin is not None and process.stdout is not None
    said = b""
    for number, data in enumerate(requests):
        while said.count(struct.pack("<I", MAGIC)) < number:
            said += process.stdout.read(1 << 16) or pytest.fail("it ended")
        process.stdin.write(data)
    return said + process.communicate(timeout=30)[0]


@pytest.fixture
def simulator(tmp_path: Path) -> SD3403Simulator:
    return SD3403Simulator(tmp_path, stub=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return stub_model(tmp_path / "policy.om", [2, 1], rows=1, width=2)


def test_a_proper_request_is_answered_and_not_journalled(simulator: SD3403Simulator, model: Path) -> None:
    reply = talk(simulator, model, header() + GOOD, header(request_id=2) + GOOD)
    assert reply.count(struct.pack("<I", MAGIC)) == 2
    assert struct.pack("<2f", 6.0, 6.1) in reply
    assert simulator.journal == []


@pytest.mark.parametrize(
    "breach",
    [pytest.param(name, marks=pytest.mark.breaks_rules(f"sd3403 {rule}")) for name, (rule, *_) in BREACHES.items()],
)
def test_a_broken_rule_is_journalled(simulator: SD3403Simulator, model: Path, breach: str) -> None:
    rule, *data = BREACHES[breach]
    talk(simulator, model, *data)
    assert rule in [entry["rule"] for entry in simulator.journal]


@pytest.mark.breaks_rules("sd3403 environment")
def test_old_settings_in_the_environment_are_journalled(simulator: SD3403Simulator, model: Path) -> None:
    talk(simulator, model, b"", SVP_MODEL_PATH="/elsewhere.om")
    assert [entry["rule"] for entry in simulator.journal] == ["environment"]
