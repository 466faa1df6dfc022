"""Whatever is wrong with a board, its runtime or its artifact: one typed error, and a card at FAULT that says why."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from compiled_models import ACT, STATE, TOP, WRIST, make_act, save

from inference_service.backends import registry
from inference_service.core.engine import synthetic_batch
from inference_service.core.errors import BackendError, BackendUnavailable, ModelLoadFailed
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.engine_node import EngineNode, EngineParameters
from inference_service.transport import create_node
from inference_service.wire.envelope import EngineState, Request
from tests.nodes.engine_rig import Asking, request
from tests.nodes.harness import wait_until
from tests.policies import make_plain_folder
from tests.simulators.rknnlite.rig import RKNNSimulator, installed
from tests.simulators.sd3403.rig import SD3403Simulator, install, stub_model

NAMES = {"state": STATE, "top": TOP, "wrist": WRIST}
LIBRARIES = {"ascend_om": "acl", "rknn": "rknnlite.api"}
TWO_INPUTS = ACT.replace(", float[1,3,8,8] wrist", "").replace("ReduceMean<keepdims=0>(wrist)", "Identity(first)")


class Board:
    """A policy made for ``device``, and what can go wrong with it."""

    def __init__(self, directory: Path, device: str, acl: Any, rknn: RKNNSimulator, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.device, self.acl, self.rknn, self.patch = directory, device, acl, rknn, patch
        self.path = directory / "policy"
        self.worker = SD3403Simulator(directory / "sd3403", stub=True)
        if device == "ascend_om":
            make_act(self.path)
            self.artifact = self.path / "om" / "act.om"
        elif device == "rknn":
            make_plain_folder(self.path, image=(8, 8), chunk_size=4)
            self.artifact = save(ACT, self.path / "model.rknn", NAMES)
        else:
            make_plain_folder(self.path, image=(8, 8), chunk_size=4)
            model = stub_model(directory / "model.om", [6, 192, 192], rows=4, width=6)
            install(self.path, self.worker, model, backend_config={"start_timeout_s": 2, "request_timeout_s": 1})
            self.artifact = self.path / "om" / "policy.om"

    def damage(self, how: str) -> None:
        damages: dict[str, Callable[[], Any]] = {
            "artifact missing": self.artifact.unlink,
            "artifact damaged": self._cut,
            "another number of inputs": self._two_inputs,
            "another chip": self._another_chip,
            "out of memory": self._out_of_memory,
            "library not installed": lambda: self.patch.setitem(sys.modules, LIBRARIES[self.device], None),
            "library older than the model": self._older,
            "library older than its package": lambda: self.rknn.set(faults={"init_runtime": {"1+": "raise"}}),
            "worker exits at start": lambda: self.worker.set(start="exit"),
            "worker stays silent": lambda: self.worker.set(start="mute"),
            "worker prints junk": lambda: self.worker.set(start="junk"),
            "worker not executable": lambda: self.worker.script.chmod(0o644),
        }
        damages[how]()

    def _cut(self) -> None:
        content = self.artifact.read_bytes()[:50]
        self.artifact.unlink()
        self.artifact.write_bytes(content if self.device != "ascend_om_3403" else b"STUB{")

    def _two_inputs(self) -> None:
        if self.device == "ascend_om_3403":
            stub_model(self.directory / "model.om", [6, 192], rows=4, width=6)
        else:
            save(TWO_INPUTS, self.artifact, NAMES)

    def _another_chip(self) -> None:
        save(ACT, self.artifact, NAMES, soc_version="Ascend910B")

    def _out_of_memory(self) -> None:
        if self.device == "ascend_om":
            self.acl.simulator.memory_limit = 256
        else:
            self.rknn.set(faults={"init_runtime": {"1+": "fail"}})

    def _older(self) -> None:
        if self.device == "ascend_om":
            for nth in range(1, 4):
                self.acl.simulator.fail("mdl.load_from_file", nth, 100013)
        else:
            self.rknn.set(faults={"init_runtime": {"1+": "fail"}})

    def break_at_run_time(self) -> None:
        """Every inference fails, until :meth:`repair`."""
        if self.device == "ascend_om":
            for nth in range(1, 1000):
                self.acl.simulator.fail("mdl.execute", nth, 507015)
        elif self.device == "rknn":
            self.rknn.set(faults={"inference": {"1+": "none"}})
        else:
            self.worker.script.chmod(0o644)
            for pid in self.worker.pids:
                os.kill(pid, signal.SIGKILL)

    def repair(self) -> None:
        if self.device == "ascend_om":
            self.acl.simulator.faults.clear()
        elif self.device == "rknn":
            self.rknn.set()
        else:
            self.worker.script.chmod(0o755)


@pytest.fixture
def make_board(tmp_path: Path, acl: Any) -> Iterator[Callable[[str], Board]]:
    with installed(tmp_path / "rknn") as rknn, pytest.MonkeyPatch.context() as patch:
        made: list[Board] = []

        def make(device: str) -> Board:
            made.append(Board(tmp_path, device, acl, rknn, patch))
            return made[-1]

        yield make
        patch.undo()
        assert rknn.unreleased == []
        assert all(board.worker.gone() for board in made)


@pytest.fixture
def asking(domain_id: int) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.node.close()


# What is wrong, with which device, as which error, and what is said of it.
WRONG = [
    ("artifact missing", "ascend_om", ModelLoadFailed, "is missing; copy it from where"),
    ("artifact missing", "ascend_om_3403", ModelLoadFailed, "is missing; copy it from where"),
    ("artifact missing", "rknn", ModelLoadFailed, "is missing; copy it from where"),
    ("artifact damaged", "ascend_om", ModelLoadFailed, "the artifact is damaged"),
    ("artifact damaged", "ascend_om_3403", ModelLoadFailed, "exited with code 1"),
    ("artifact damaged", "rknn", ModelLoadFailed, "It may be damaged"),
    ("another number of inputs", "ascend_om", ModelLoadFailed, "has 2 inputs .*the policy 3"),
    ("another number of inputs", "ascend_om_3403", ModelLoadFailed, "inputs do not fit the model"),
    ("another number of inputs", "rknn", ModelLoadFailed, "returned no outputs"),
    ("another chip", "ascend_om", ModelLoadFailed, "converted for another chip"),
    ("out of memory", "ascend_om", ModelLoadFailed, "out of memory; end other processes"),
    ("out of memory", "rknn", ModelLoadFailed, "its memory is used up"),
    ("library not installed", "ascend_om", BackendUnavailable, "install CANN for this Python"),
    ("library not installed", "rknn", BackendUnavailable, "on the board: pip install rknn-toolkit-lite2"),
    ("library older than the model", "ascend_om", ModelLoadFailed, "is newer than this CANN"),
    ("library older than the model", "rknn", ModelLoadFailed, "newer than librknnrt.so"),
    ("library older than its package", "rknn", BackendUnavailable, "Install both of one version"),
    ("worker exits at start", "ascend_om_3403", ModelLoadFailed, "exited with code 4.*svp_acl_init failed"),
    ("worker stays silent", "ascend_om_3403", ModelLoadFailed, "did not answer in time"),
    ("worker prints junk", "ascend_om_3403", ModelLoadFailed, "and no reply"),
    ("worker not executable", "ascend_om_3403", ModelLoadFailed, "may not be executed; allow it with: chmod"),
]
# What the stand-ins see in it, for a good session does not.
_SEEN = {
    ("another number of inputs", "ascend_om_3403"): ("sd3403 input count",),
    ("another number of inputs", "rknn"): ("rknnlite input count",),
}


def _case(how: str, device: str, *expected: Any) -> Any:
    seen = _SEEN.get((how, device))
    marks = [pytest.mark.breaks_rules(*seen)] if seen else []
    return pytest.param(how, device, *expected, marks=marks, id=f"{device}: {how}")


@contextmanager
def serving(board: Board) -> Iterator[EngineNode]:
    node = create_node("pure_inference")
    engine = EngineNode(node, EngineParameters(policy_path=str(board.path), device=board.device))
    try:
        yield engine
    finally:
        engine.close()
        node.close()


@pytest.mark.parametrize(("how", "device", "error", "said"), [_case(*row) for row in WRONG])
def test_what_is_wrong_at_the_start_is_one_typed_error_and_stands_on_the_card(
    how: str,
    device: str,
    error: type[BackendError],
    said: str,
    make_board: Callable[[str], Board],
    asking: Asking,
) -> None:
    board = make_board(device)
    board.damage(how)
    with pytest.raises(BackendError, match=f"(?s){said}") as caught:
        registry.load_policy(PolicyFolder.load(board.path), device)
    assert type(caught.value) is error
    with serving(board):
        card = asking.wait_for(EngineState.FAULT)
        assert re.search(f"(?s){said}", card.message)
        refused = asking.ask(ask_of(board, 1))
        assert refused.status == "engine_unavailable" and re.search(f"(?s){said}", refused.message)


@pytest.mark.parametrize(
    ("device", "said"), [("ascend_om", "507015"), ("ascend_om_3403", "cannot be started"), ("rknn", "no outputs")]
)
def test_what_breaks_at_run_time_is_on_the_card_until_it_is_repaired(
    device: str, said: str, make_board: Callable[[str], Board], asking: Asking
) -> None:
    board = make_board(device)
    with serving(board):
        asking.wait_for(EngineState.READY)
        assert asking.ask(ask_of(board, 0)).status == "ok"
        board.break_at_run_time()
        statuses = []
        for number in range(1, 20):
            statuses.append(asking.ask(ask_of(board, number)).status)
            if wait_until(lambda: asking.cards[-1].state is EngineState.FAULT, 0.1):
                break
        assert set(statuses) <= {"inference_failed", "engine_fault", "engine_unavailable"}, statuses
        assert said in asking.wait_for(EngineState.FAULT).message
        board.repair()
        asking.wait_for(EngineState.READY)
        assert asking.ask(ask_of(board, 20)).status == "ok"


def ask_of(board: Board, number: int) -> Request:
    batch = synthetic_batch(PolicyFolder.load(board.path).config.input_features)
    return request(number, batch=batch, deadline_ms=20_000.0)
