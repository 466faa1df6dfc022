"""An engine process with ``device:=ascend_om`` on the real wire: answers, faults, and an orderly end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from compiled_models import SIMULATORS, make_act

from inference_service.core.engine import synthetic_batch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.wire.envelope import EngineState, Request
from tests.nodes.engine_rig import Asking
from tests.nodes.harness import wait_until

ROOT = Path(__file__).resolve().parents[3]


class Engine:
    def __init__(self, directory: Path, faults: str = "") -> None:
        self.policy = make_act(directory / "policy")
        self.folder = PolicyFolder.load(self.policy)
        self.journal = directory / "journal"
        paths = os.pathsep.join([str(ROOT), str(SIMULATORS)])
        environment = os.environ | {"PYTHONPATH": paths, "ACL_SIM_JOURNAL": str(self.journal), "ACL_SIM_FAULTS": faults}
        module = (
            "from inference_service.nodes.engine_node import main; import sys; raise SystemExit(main(sys.argv[1:]))"
        )
        words = [f"policy_path:={self.policy}", "device:=ascend_om"]
        self.process = subprocess.Popen([sys.executable, "-c", module, *words], env=environment, cwd=directory)

    def request(self, number: int) -> Request:
        batch = {k: v for k, v in synthetic_batch(self.folder.config.input_features).items() if k != "task"}
        return Request(
            request_id=f"device:{number}",
            batch=batch,
            device_id="device",
            session="1",
            fingerprint=self.folder.fingerprint,
            deadline_ms=20_000.0,
        )

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


@pytest.fixture
def start(domain_id: int, tmp_path: Path) -> Iterator[Any]:
    engines: list[Engine] = []

    def make(faults: str = "") -> Engine:
        engines.append(Engine(tmp_path, faults))
        return engines[-1]

    yield make
    for engine in engines:
        if engine.process.poll() is None:
            engine.process.kill()
            engine.process.wait(30)


def test_it_answers_over_the_wire_and_ends_without_a_broken_rule(start: Any, asking: Asking) -> None:
    engine = start(faults="mdl.execute:3=507015")
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.READY, 40)
    assert asking.cards[-1].backend_type == "ascend_om" and asking.cards[-1].device == "cpu"
    reply = asking.ask(engine.request(1))
    assert reply.status == "ok"
    assert np.array_equal(reply.action[:, 0], np.arange(4))
    failed = asking.ask(engine.request(2))
    assert failed.status == "inference_failed" and "507015" in failed.message
    assert asking.ask(engine.request(3)).status == "ok"
    assert engine.end() == 0
    assert not engine.journal.exists(), engine.journal.read_text()


def test_a_load_that_fails_is_a_fault_with_its_reason(start: Any, asking: Asking) -> None:
    engine = start(faults="rt.malloc:2=207001")
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.FAULT, 40)
    assert "out of memory" in asking.cards[-1].message
    reply = asking.ask(engine.request(1))
    assert reply.status == "engine_unavailable" and "out of memory" in reply.message
    assert engine.end() == 0
    assert not engine.journal.exists(), engine.journal.read_text()


def test_killed_in_mid_inference_it_breaks_no_rule_and_another_serves(start: Any, asking: Asking) -> None:
    """Fault: SIGKILL while requests are computed. A process that is killed closes nothing; what it did until then was
    by the rules, and the next one finds the device as it wants it."""
    from inference_service.wire.envelope import encode_request

    engine = start()
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.READY, 40)
    for number in range(20):
        asking.send(encode_request(engine.request(number), extended=True))
    engine.process.kill()
    engine.process.wait(30)
    asking.cards.clear()
    second = start()
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.READY, 40)
    assert asking.ask(second.request(30)).status == "ok"
    assert second.end() == 0
    assert not engine.journal.exists(), engine.journal.read_text()


def test_ended_in_mid_inference_it_still_keeps_the_rules(start: Any, asking: Asking) -> None:
    engine = start()
    assert wait_until(lambda: asking.cards and asking.cards[-1].state is EngineState.READY, 40)
    from inference_service.wire.envelope import encode_request

    for number in range(20):
        asking.send(encode_request(engine.request(number), extended=True))
    assert engine.end() == 0
    assert not engine.journal.exists(), engine.journal.read_text()
