"""The SD3403 session against a stand-in worker that keeps the protocol's rules and breaks its own on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inference_service.backends.compiled.restarts import RestartBudget
from inference_service.backends.compiled.sd3403_session import ActionOutput, Patience, SD3403RuntimeSession
from inference_service.backends.compiled.session import RuntimeSession, TensorSpec
from inference_service.core.errors import (
    BackendUnavailable,
    EngineFault,
    InferenceFailed,
    ModelLoadFailed,
    NonFiniteAction,
)
from tests.simulators.sd3403.rig import SD3403Simulator, state_of, stub_model

FLOAT = np.dtype(np.float32)
# The picture is larger than a pipe, so that a request needs a worker that reads.
INPUTS = (TensorSpec("state", (1, 6), FLOAT), TensorSpec("top", (1, 3, 96, 128), FLOAT, "NCHW"))
ROWS, WIDTH = 4, 6
QUICK = Patience(request_s=0.5, start_s=20, leave_s=2, max_restarts=3, restart_window_s=3600)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SD3403Simulator]:
    simulator = SD3403Simulator(tmp_path / "sd3403", stub=True)
    yield simulator
    assert simulator.journal == []
    assert simulator.gone(), "a worker outlived its session, or was never reaped"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return stub_model(tmp_path / "policy.om", [6, 3 * 96 * 128], ROWS, WIDTH)


Open = Callable[..., SD3403RuntimeSession]


@pytest.fixture
def open_session(simulator: SD3403Simulator, model: Path) -> Iterator[Open]:
    opened: list[SD3403RuntimeSession] = []

    def open_one(patience: Patience = QUICK, **output: object) -> SD3403RuntimeSession:
        action = ActionOutput(**({"index": 1, "rows": ROWS, "width": WIDTH} | output))
        opened.append(SD3403RuntimeSession(simulator.script, model, INPUTS, action, patience))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def inputs(state: float = 1.0) -> list[np.ndarray]:
    return [np.full((1, 6), state, np.float32), np.zeros((1, 3, 96, 128), np.float32)]


def expected(state: float = 1.0) -> np.ndarray:
    return (6 * state + np.arange(ROWS)[:, None] + np.arange(WIDTH) / 10).astype(np.float32)[None]


def test_it_asks_and_is_answered(open_session: Open) -> None:
    session = open_session()
    assert isinstance(session, RuntimeSession)
    for state in (1.0, 2.0, -3.0):
        (action,) = session.run(inputs(state))
        assert action.shape == session.outputs[0].shape == (1, ROWS, WIDTH)
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, expected(state), atol=1e-5)
    assert session.versions["sd3403 protocol"] == "1" and session.versions["worker"].startswith("main sha256:")


@pytest.mark.parametrize("layout", [None, "strided"])
def test_rows_padded_by_the_npu_are_cut(simulator: SD3403Simulator, open_session: Open, layout: str | None) -> None:
    simulator.set(padded=True)
    np.testing.assert_allclose(open_session(layout=layout).run(inputs())[0], expected(), atol=1e-5)


def test_a_declared_layout_is_not_guessed_around(simulator: SD3403Simulator, open_session: Open) -> None:
    simulator.set(padded=True)
    with pytest.raises(ModelLoadFailed, match=r"output 1 of the worker has 32 elements.*has 4 x 6"):
        open_session(layout="direct")
    with pytest.raises(ModelLoadFailed, match=r"has 4 x 16"):
        open_session(layout="strided", stride=16)


def test_the_action_may_be_another_output(simulator: SD3403Simulator, open_session: Open) -> None:
    simulator.set(output=2)
    np.testing.assert_allclose(open_session(index=2).run(inputs())[0], expected(), atol=1e-5)
    with pytest.raises(ModelLoadFailed, match=r"no output 1 .*only 0 \[2\], 2 \[1, 4, 6\].*action_output\.index"):
        open_session()


@pytest.mark.parametrize("fault", ["chatter", "half a magic", "trickle", "log"])
def test_vendor_chatter_is_read_past(simulator: SD3403Simulator, open_session: Open, fault: str) -> None:
    simulator.set(faults={"2": fault})
    session = open_session()
    for _ in range(2):
        np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    assert len(simulator.pids) == 1


BROKEN = {
    "junk": r"printed 1048576 bytes and no reply.*register",
    "wrong id": r"answered request 1, asked was 2",
    "wrong version": r"version 2 of its protocol",
    "hang": r"did not answer in time \(it printed nothing\); it still runs; its last lines.*model_load_ms=12",
    "die": r"exited before its reply was complete; it was killed by SIGKILL.*\n.*NPU hung, giving up",
    "die in reply": r"exited before its reply was complete; it exited with code 5",
    "half a reply": r"did not answer in time",
    "unknown type": r"element type 9",
    "twice": r"output 0 twice",
    "wrong size": r"24 elements of float32 are not 92 bytes",
    "wrong dims": r"dims \[24, 2\] do not hold 24 elements",
    "many outputs": r"33 outputs",
    "many dims": r"9 dims",
    "many bytes": r"268435460 bytes, more than",
    "much text": r"65537 bytes of error text",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_worker_fails_one_request_and_is_replaced_for_the_next(
    simulator: SD3403Simulator, open_session: Open, fault: str
) -> None:
    simulator.set(faults={"2": fault})
    session = open_session()
    with pytest.raises(InferenceFailed, match=f"(?s){BROKEN[fault]}"):
        session.run(inputs())
    np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    assert len(simulator.pids) == 2, "the broken worker was kept, or more than one was started"
    assert not Path(f"/proc/{simulator.pids[0]}").exists(), "the broken worker is still there, alive or as a zombie"


REFUSED = {
    "refuse": r"status 1, error code 507014\): svp_acl_mdl_execute failed: AI core timeout",
    "no outputs": r"no output 1 for the action, only none",
    "integers": r"output 1 of the worker is int32, an action is float",
    "short": r"has 23 elements",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_unusable_answer_leaves_the_worker_alive(simulator: SD3403Simulator, open_session: Open, fault: str) -> None:
    simulator.set(faults={"2": fault})
    session = open_session()
    with pytest.raises(InferenceFailed, match=REFUSED[fault]):
        session.run(inputs())
    np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    assert len(simulator.pids) == 1


@pytest.mark.parametrize(("number", "kind"), [(1, ModelLoadFailed), (2, NonFiniteAction)])
def test_nan_is_no_action(simulator: SD3403Simulator, open_session: Open, number: int, kind: type[Exception]) -> None:
    simulator.set(faults={str(number): "nan"})
    with pytest.raises(kind, match="output 1 of the worker holds NaN"):
        open_session().run(inputs())


START = {
    "exit": r"exited .*exited with code 4; its last lines.*\n.*svp_acl_init failed, ret=507033",
    "mute": r"did not answer in time \(it printed b'load sys",
    "deaf": r"did not answer in time \(\d+ bytes of the request are still unread",
    "junk": r"prints instead of reading|printed 1048576 bytes and no reply",
}


@pytest.mark.parametrize("fault", START)
def test_a_worker_that_does_not_start_is_a_model_that_does_not_load(
    simulator: SD3403Simulator, open_session: Open, fault: str
) -> None:
    simulator.set(start=fault)
    with pytest.raises(ModelLoadFailed, match=f"(?s){START[fault]}"):
        open_session(Patience(start_s=1.0, leave_s=0.1))


def test_megabytes_of_log_do_not_stop_the_worker(simulator: SD3403Simulator, open_session: Open) -> None:
    simulator.set(start="log")
    np.testing.assert_allclose(open_session().run(inputs())[0], expected(), atol=1e-5)


def test_a_worker_that_died_between_requests_is_noticed_and_replaced(
    simulator: SD3403Simulator, open_session: Open
) -> None:
    session = open_session()
    os.kill(simulator.pids[0], signal.SIGKILL)
    wait_until(lambda: state_of(simulator.pids[0]) in ("Z", None))
    np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    assert len(simulator.pids) == 2 and state_of(simulator.pids[0]) is None


def test_a_worker_that_keeps_dying_uses_up_its_restarts(simulator: SD3403Simulator, open_session: Open) -> None:
    simulator.set(faults={str(n): "die" for n in range(2, 9)})
    session = open_session(Patience(request_s=5, leave_s=2, max_restarts=2, restart_window_s=3600))
    for _ in range(3):
        with pytest.raises(InferenceFailed, match="exited"):
            session.run(inputs())
    with pytest.raises(EngineFault, match=r"had its 2 restarts in 3600 s"):
        session.run(inputs())
    assert len(simulator.pids) == 3
    simulator.set()
    session.recover()
    np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    assert len(simulator.pids) == 4


def test_a_worker_whose_file_is_gone_runs_again_when_it_is_back(simulator: SD3403Simulator, open_session: Open) -> None:
    session = open_session()
    hidden = simulator.script.rename(simulator.directory / "hidden")
    os.kill(simulator.pids[0], signal.SIGKILL)
    wait_until(lambda: state_of(simulator.pids[0]) in ("Z", None))
    for attempt in (lambda: session.run(inputs()), session.recover):
        with pytest.raises(EngineFault, match=r"cannot be started again: .*main cannot be started here"):
            attempt()
    hidden.rename(simulator.script)
    session.recover()
    np.testing.assert_allclose(session.run(inputs())[0], expected(), atol=1e-5)
    session.close()
    with pytest.raises(EngineFault, match="closed"):
        session.recover()


def test_a_recovered_worker_that_does_not_answer_is_no_recovery(simulator: SD3403Simulator, open_session: Open) -> None:
    """``recover`` starts it, and the engine's warm-up judges it."""
    session = open_session()
    simulator.set(start="exit")
    session.recover()
    with pytest.raises(InferenceFailed, match="exited with code 4"):
        session.run(inputs())


def test_restarts_are_granted_again_as_time_passes() -> None:
    now = [0.0]
    budget = RestartBudget(2, 60, lambda: now[0])
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    now[0] = 60.0
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    assert not RestartBudget(0, 60).spend()


def test_a_stubborn_worker_is_killed_on_close(simulator: SD3403Simulator, open_session: Open) -> None:
    simulator.set(start="stubborn")
    session = open_session(Patience(leave_s=0.1))
    session.close()
    session.close()
    assert state_of(simulator.pids[0]) is None
    with pytest.raises(InferenceFailed, match="closed"):
        session.run(inputs())


def test_what_a_worker_that_is_a_script_has_started_ends_with_it(simulator: SD3403Simulator, model: Path) -> None:
    """Fault: the script is killed, its program computes on and keeps the NPU."""
    simulator.set(start="stubborn")
    text = simulator.script.read_text().replace("exec ", "echo $$ >>" + str(simulator.directory / "pids") + "\n")
    simulator.script.write_text(text + "exit $?\n")
    session = SD3403RuntimeSession(simulator.script, model, INPUTS, ActionOutput(1, ROWS, WIDTH), QUICK)
    script, program = simulator.pids
    os.kill(script, signal.SIGKILL)
    wait_until(lambda: state_of(script) in ("Z", None))
    assert session.run(inputs())
    wait_until(lambda: state_of(program) is None)
    session.close()


def test_threads_take_turns(open_session: Open) -> None:
    session = open_session()
    answers: dict[int, list[np.ndarray]] = {n: [] for n in range(3)}
    threads = [
        threading.Thread(target=lambda n=n: answers[n].extend(session.run(inputs(n))[0] for _ in range(5)))
        for n in answers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for n, chunks in answers.items():
        assert len(chunks) == 5
        for chunk in chunks:
            np.testing.assert_allclose(chunk, expected(n), atol=1e-5)


def test_inputs_of_another_shape_never_reach_the_wire(open_session: Open) -> None:
    session = open_session()
    state, top = inputs()
    for wrong in ([state], [top, state], [state.astype(np.float64), top], [state, top.transpose(0, 2, 3, 1)]):
        with pytest.raises(InferenceFailed, match=r"expected inputs state float32 \[1, 6\], top"):
            session.run(wrong)
    assert session.run([state, top])


def test_old_settings_of_the_environment_do_not_reach_the_worker(
    open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVP_MODEL_PATH", "/elsewhere.om")
    assert open_session().run(inputs())


def test_what_is_no_program_is_named(tmp_path: Path, simulator: SD3403Simulator, model: Path) -> None:
    other = tmp_path / "main_aarch64"
    other.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    other.chmod(0o755)
    with pytest.raises(BackendUnavailable, match=r"main_aarch64 cannot be started here \(Exec format error\)"):
        SD3403RuntimeSession(other, model, INPUTS, ActionOutput(1, ROWS, WIDTH), QUICK)


def test_the_wire_carries_only_float32_nchw(simulator: SD3403Simulator, model: Path) -> None:
    for spec in (
        TensorSpec("top", (1, 96, 128, 3), FLOAT, "NHWC"),
        TensorSpec("state", (1, 6), np.dtype(np.float16)),
    ):
        with pytest.raises(ModelLoadFailed, match="takes float32, images as NCHW"):
            SD3403RuntimeSession(simulator.script, model, [spec], ActionOutput(1, ROWS, WIDTH), QUICK)
    assert simulator.pids == []


def test_the_worker_ends_with_an_engine_that_is_killed(simulator: SD3403Simulator, model: Path, tmp_path: Path) -> None:
    """Fault: SIGKILL of the engine while its worker computes and looks at no pipe. Invariant: no worker is left."""
    simulator.set(faults={"2": "hang"})
    program = textwrap.dedent(f"""
        from pathlib import Path
        from tests.backends.compiled.test_sd3403_session import *
        session = SD3403RuntimeSession(
            Path({str(simulator.script)!r}), Path({str(model)!r}), INPUTS,
            ActionOutput(1, ROWS, WIDTH), Patience(request_s=600))
        print("hanging", flush=True)
        session.run(inputs())
    """)
    engine = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert engine.stdout is not None and engine.stdout.readline() == b"hanging\n"
    time.sleep(0.2)
    engine.kill()
    engine.wait(10)
    engine.stdout.close()
    (pid,) = simulator.pids
    wait_until(lambda: state_of(pid) in ("Z", None))


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
