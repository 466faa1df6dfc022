"""The RKNN session against a stand-in for rknnlite that journals what the real one would let pass in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inference_service.backends.compiled import rknn_npu
from inference_service.backends.compiled.rknn_npu import data_format, missing_parts
from inference_service.backends.compiled.rknn_session import RKNNRuntimeSession
from inference_service.backends.compiled.session import RuntimeSession, TensorSpec
from inference_service.core.errors import (
    BackendUnavailable,
    EngineFault,
    InferenceFailed,
    ModelLoadFailed,
    NonFiniteAction,
)
from tests.simulators.rknnlite.rig import RKNNSimulator, installed, tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FLOAT = np.dtype(np.float32)
STATE = TensorSpec("state", (1, 6), FLOAT)
TOP = TensorSpec("top", (1, 8, 10, 3), FLOAT, "NHWC")
GRAPH = {"state": (1, 6), "top": (1, 3, 8, 10)}
Open = Callable[..., RKNNRuntimeSession]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[RKNNSimulator]:
    with installed(tmp_path / "rknn") as simulator:
        yield simulator
        assert simulator.journal == []
        assert simulator.unreleased == []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model.rknn", GRAPH)


@pytest.fixture
def open_session(simulator: RKNNSimulator, model: Path) -> Iterator[Open]:
    opened: list[RKNNRuntimeSession] = []

    def open_one(*args: object, **kwargs: object) -> RKNNRuntimeSession:
        opened.append(RKNNRuntimeSession(model, [STATE, TOP], *args, **kwargs))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def inputs(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(spec.shape).astype(np.float32) for spec in (STATE, TOP)]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def reference(model: Path, given: list[np.ndarray]) -> np.ndarray:
    import onnxruntime

    state, top = given
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"state": state, "top": top.transpose(0, 3, 1, 2)})[0]


def test_it_computes_what_the_model_does(open_session: Open, model: Path) -> None:
    session = open_session()
    assert isinstance(session, RuntimeSession)
    for seed in range(3):
        (output,) = session.run(inputs(seed))
        np.testing.assert_allclose(output, reference(model, inputs(seed)), rtol=1e-5, atol=1e-5)
    assert session.outputs == (TensorSpec("output0", (1, 4, 6), FLOAT),)
    assert session.versions == {"librknnrt": "2.3.2", "rknpu driver": "0.9.8", "npu cores": "auto"}


def test_the_same_question_may_have_the_same_answer(simulator: RKNNSimulator, open_session: Open) -> None:
    session = open_session()
    before = simulator.inferences
    first = session.run(inputs())[0]
    kept = first.copy()
    assert np.array_equal(session.run(inputs())[0], first)
    assert simulator.inferences == before + 2, "a suspicion without reason"
    session.run(inputs(1))
    assert np.array_equal(first, kept), "an answer that was handed out changed later"


def test_answers_belong_to_the_caller(open_session: Open) -> None:
    session = open_session()
    session.run(inputs())[0].fill(0)
    assert session.run(inputs())[0].any()


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_layouts_are_settled_per_input(simulator: RKNNSimulator, tmp_path: Path, layout: str) -> None:
    """A 4-D mask beside a picture: RKNNLite would move the mask's axes unless told for each."""
    graph = {"state": (1, 6), "top": (1, 3, 8, 10), "mask": (1, 2, 5, 5)}
    model = tiny_model(tmp_path / "masked.rknn", graph)
    top = TOP if layout == "NHWC" else TensorSpec("top", (1, 3, 8, 10), FLOAT, "NCHW")
    session = RKNNRuntimeSession(model, [STATE, top, TensorSpec("mask", (1, 2, 5, 5), FLOAT)])
    given = inputs()
    mask = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5)
    picture = given[1] if layout == "NHWC" else np.ascontiguousarray(given[1].transpose(0, 3, 1, 2))
    import onnxruntime

    feeds = {"state": given[0], "top": given[1].transpose(0, 3, 1, 2), "mask": mask}
    expected = onnxruntime.InferenceSession(str(model)).run(None, feeds)[0]
    np.testing.assert_allclose(session.run([given[0], picture, mask])[0], expected, rtol=1e-4, atol=1e-4)
    session.close()


def test_one_format_for_all_is_no_list() -> None:
    nchw = TensorSpec("top", (1, 3, 8, 10), FLOAT, "NCHW")
    mask = TensorSpec("mask", (1, 2, 5, 5), FLOAT)
    assert data_format([STATE]) is None
    assert data_format([STATE, TOP, TOP]) == "nhwc"
    assert data_format([STATE, nchw, mask]) == "nchw"
    assert data_format([STATE, TOP, mask]) == ["nchw", "nhwc", "nchw"]


@pytest.mark.breaks_rules("rknnlite rank")
def test_the_order_of_the_artifact_counts(simulator: RKNNSimulator, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "turned.rknn", GRAPH, order=["top", "state"])
    with pytest.raises(ModelLoadFailed, match="returned no outputs"):
        RKNNRuntimeSession(model, [STATE, TOP])
    assert simulator.rules_broken == ["rank"]
    (simulator.directory / "journal.jsonl").unlink()
    session = RKNNRuntimeSession(model, [TOP, STATE])
    session.close()


FAULTS = {
    "none": (InferenceFailed, "returned no outputs"),
    "raise": (InferenceFailed, "raised ValueError: the logger raised"),
    "nan": (NonFiniteAction, "NaN or infinity"),
    "zeros": (InferenceFailed, "nothing but zeros"),
    "shape": (InferenceFailed, r"shapes \(\(1, 3, 6\),\), expected \(\(1, 4, 6\),\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_inference_is_typed_and_the_context_rebuilt(
    simulator: RKNNSimulator, open_session: Open, model: Path, fault: str
) -> None:
    simulator.set(faults={"inference": {"2": fault}})
    session = open_session()
    kind, message = FAULTS[fault]
    with pytest.raises(kind, match=message):
        session.run(inputs())
    assert simulator.unreleased == []
    np.testing.assert_allclose(session.run(inputs())[0], reference(model, inputs()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "shape"])
def test_a_model_that_loads_and_does_not_infer_is_not_loaded(
    simulator: RKNNSimulator, open_session: Open, fault: str
) -> None:
    simulator.set(faults={"inference": {"1": fault}})
    with pytest.raises(ModelLoadFailed, match="does not infer"):
        open_session()


def test_an_answer_of_the_call_before_is_asked_for_again(
    simulator: RKNNSimulator, open_session: Open, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault: ``rknn_run`` fails once, which RKNNLite does not tell. Expected: the right answer and a warning."""
    simulator.set(faults={"inference": {"3": "stale"}})
    session = open_session()
    session.run(inputs(0))[0].fill(7)
    np.testing.assert_allclose(session.run(inputs(1))[0], reference(model, inputs(1)), rtol=1e-5, atol=1e-5)
    assert "answer of the call before" in caplog.text


def test_a_runtime_that_repeats_itself_is_an_error(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"inference": {"3+": "stale"}})
    session = open_session()
    session.run(inputs(0))
    with pytest.raises(InferenceFailed, match="different inputs with the same outputs"):
        session.run(inputs(1))


def test_a_context_that_keeps_failing_uses_up_its_rebuilds(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"inference": {"2+": "none"}})
    session = open_session()
    for _ in range(4):
        with pytest.raises(InferenceFailed, match="no outputs"):
            session.run(inputs())
    with pytest.raises(EngineFault, match=r"had its 3 restarts in 60 s"):
        session.run(inputs())


def test_a_fault_ends_with_a_recovery(simulator: RKNNSimulator, open_session: Open, model: Path) -> None:
    """Fault: the NPU fails, and the library does not start with the model again; then it does."""
    simulator.set(faults={"inference": {"2": "none"}, "init_runtime": {"2": "fail", "3": "fail"}})
    session = open_session()
    with pytest.raises(InferenceFailed, match="no outputs"):
        session.run(inputs())
    with pytest.raises(EngineFault, match=r"cannot be started again: .*its memory is used up"):
        session.run(inputs())
    with pytest.raises(EngineFault, match=r"core auto cannot be rebuilt: .*did not start"):
        session.recover()
    assert simulator.unreleased == []
    session.recover()
    np.testing.assert_allclose(session.run(inputs())[0], reference(model, inputs()), rtol=1e-5, atol=1e-5)
    session.close()
    with pytest.raises(EngineFault, match="closed"):
        session.recover()


def test_a_pool_serves_on_while_one_of_it_cannot_be_started(simulator: RKNNSimulator, open_session: Open) -> None:
    """Loading proves each object with one inference; the fourth is the first object's, and its last."""
    simulator.set(faults={"inference": {"4": "none"}, "init_runtime": {"4+": "fail"}})
    session = open_session(["0", "1", "2"])
    with pytest.raises(InferenceFailed, match="no outputs"):
        session.run(inputs())
    for _ in range(9):
        assert session.run(inputs())
    assert len(simulator.unreleased) == 2
    simulator.set()
    session.recover()
    assert len(simulator.unreleased) == 3


def test_a_recovery_does_not_wait_for_a_call_that_hangs(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"inference": {"2": "slow"}})
    session = open_session(busy_s=0.2)
    thread = threading.Thread(target=lambda: session.run(inputs()))
    thread.start()
    while session._idle.qsize():
        pass
    with pytest.raises(EngineFault, match=r"are busy .*restart the engine's process"):
        session.recover()
    thread.join(30)
    session.recover()
    assert session.run(inputs())


@pytest.mark.parametrize(
    ("soc", "core", "mask"),
    [
        ("rk3588", "auto", 0),
        ("rk3588", "0", 1),
        ("rk3588", "1", 2),
        ("rk3588", "2", 4),
        ("rk3588", "0_1", 3),
        ("rk3588", "0_1_2", 7),
        ("rk3588", "all", 7),
        ("rk3576", "all", 3),
        ("rk3568", "auto", 0),
    ],
)
def test_cores_by_name(simulator: RKNNSimulator, open_session: Open, soc: str, core: str, mask: int) -> None:
    simulator.set(soc=soc)
    session = open_session([core])
    assert [lite.mask for lite in simulator.unreleased] == [mask]
    assert session.versions["npu cores"] == core


@pytest.mark.breaks_rules("rknnlite core mask")
def test_a_core_that_the_chip_lacks_is_refused(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(soc="rk3568")
    with pytest.raises(ModelLoadFailed, match=r"on core 0; .*the chip lacks that core"):
        open_session(["0"])
    assert simulator.rules_broken == ["core mask"]
    (simulator.directory / "journal.jsonl").unlink()


def test_a_core_mask_that_fails_is_not_run_with_another(simulator: RKNNSimulator, open_session: Open) -> None:
    """RKNNLite returns -1 and stays usable, on cores of its own choice."""
    simulator.set(faults={"init_runtime": {"1": "core mask"}})
    with pytest.raises(ModelLoadFailed, match="did not start"):
        open_session(["0_1_2"])
    assert simulator.unreleased == []


def test_a_pool_serves_several_threads_at_once(simulator: RKNNSimulator, open_session: Open, model: Path) -> None:
    session = open_session(["0", "1", "2"])
    assert len(simulator.unreleased) == 3
    answers: dict[int, list[np.ndarray]] = {n: [] for n in range(5)}
    threads = [
        threading.Thread(target=lambda n=n: answers[n].extend(session.run(inputs(n))[0] for _ in range(20)))
        for n in answers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n, outputs in answers.items():
        assert len(outputs) == 20
        for output in outputs:
            np.testing.assert_allclose(output, reference(model, inputs(n)), rtol=1e-5, atol=1e-5)


def test_half_a_pool_is_released(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"init_runtime": {"3": "fail"}})
    with pytest.raises(ModelLoadFailed):
        open_session(["0", "1", "2"])
    assert simulator.unreleased == []


def test_nobody_waits_for_a_busy_npu_without_end(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"inference": {"2": "slow"}})
    session = open_session(busy_s=0.2)
    thread = threading.Thread(target=lambda: session.run(inputs()))
    thread.start()
    while session._idle.qsize():
        pass
    with pytest.raises(InferenceFailed, match=r"all 1 NPU objects are busy for more than 0\.2 s"):
        session.run(inputs())
    thread.join(30)
    assert session.run(inputs())


def test_closing_waits_for_the_inference_in_progress(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"inference": {"2": "slow"}})
    session = open_session()
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.extend(session.run(inputs())))
    thread.start()
    while session._idle.qsize():
        pass
    session.close()
    session.close()
    assert simulator.unreleased == []
    thread.join(30)
    assert len(answers) == 1
    with pytest.raises(InferenceFailed, match="closed"):
        session.run(inputs())


def test_inputs_of_another_shape_never_reach_the_library(open_session: Open) -> None:
    session = open_session()
    state, top = inputs()
    for wrong in ([state], [top, state], [state, top.transpose(0, 3, 1, 2)], [state.astype(np.float64), top]):
        with pytest.raises(InferenceFailed, match=r"expected inputs state float32 \[1, 6\], top .* NHWC"):
            session.run(wrong)
    assert session.run([state, top])


def test_dtypes_that_rknnlite_does_not_take(simulator: RKNNSimulator, model: Path) -> None:
    for dtype in ("float64", "uint64", ">f4"):
        with pytest.raises(ModelLoadFailed, match="RKNNLite does not take state"):
            RKNNRuntimeSession(model, [TensorSpec("state", (1, 6), np.dtype(dtype)), TOP])


@pytest.mark.parametrize("damage", [b"", b"not a model", bytes(range(256)) * 8])
def test_a_damaged_model_is_named(simulator: RKNNSimulator, tmp_path: Path, damage: bytes) -> None:
    broken = tmp_path / "broken.rknn"
    broken.write_bytes(damage)
    with pytest.raises(ModelLoadFailed, match=r"broken\.rknn: .*newer than librknnrt\.so"):
        RKNNRuntimeSession(broken, [STATE, TOP])


def test_a_model_that_cannot_be_read(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"load_rknn": {"1": "fail"}})
    with pytest.raises(ModelLoadFailed, match="cannot read it"):
        open_session()


def test_declared_outputs_must_be_as_many(open_session: Open) -> None:
    assert open_session(output_names=["action"]).outputs[0].name == "action"
    with pytest.raises(ModelLoadFailed, match=r"2 outputs are declared \(action, extra\), it has 1"):
        open_session(output_names=["action", "extra"])


def test_a_library_older_than_the_wheel(simulator: RKNNSimulator, open_session: Open) -> None:
    """As the real wheel 2.5.0 does, it raises where everything else is a code."""
    simulator.set(faults={"init_runtime": {"1+": "raise"}})
    with pytest.raises(BackendUnavailable, match=r"undefined symbol.*older than the Python package rknn-toolkit-lite2"):
        open_session()
    assert simulator.unreleased == []


def test_what_the_board_lacks_is_named(simulator: RKNNSimulator, open_session: Open) -> None:
    simulator.set(faults={"init_runtime": {"1+": "fail"}})
    (simulator.board / "usr/lib/librknnrt.so").unlink()
    with pytest.raises(BackendUnavailable, match=r"not found here: /usr/lib/librknnrt\.so"):
        open_session()


def test_every_part_of_a_board_is_looked_for(simulator: RKNNSimulator, tmp_path: Path) -> None:
    assert missing_parts(simulator.board) == []
    (simulator.board / ".dockerenv").touch()
    assert missing_parts(simulator.board) == []
    (simulator.board / "dev/dri/renderD129").unlink()
    (simulator.board / "proc/device-tree/compatible").write_bytes(b"raspberrypi,5\0brcm,bcm2712\0")
    missing = "; ".join(missing_parts(simulator.board))
    assert "a Rockchip chip with an NPU" in missing and "/dev/dri/renderD129" in missing
    assert "/proc/device-tree/compatible" in missing_parts(tmp_path)[0]


def test_without_the_library(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(rknn_npu.importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match=r"RKNNLite cannot be imported .*pip install rknn-toolkit-lite2"):
        RKNNRuntimeSession(model, [STATE, TOP])
