"""``ascend_om`` over the strict simulator: numbers, threads, faults at any call, nothing left behind."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from compiled_models import (
    ACT,
    CHUNK,
    DIM,
    IMAGE,
    SIMULATORS,
    STATE,
    TOP,
    WRIST,
    make_act,
    make_pi05,
    save,
    write_sidecar,
)

from inference_service.backends.compiled.acl_session import OMRuntimeSession
from inference_service.backends.compiled.ascend import load
from inference_service.backends.compiled.pi05_adapter import BATCH_NOISE, LANGUAGE_MASK, MASKED, TOKENS, prefix_mask
from inference_service.backends.compiled.sidecar import load_sidecar
from inference_service.core.batch import AffineImage, Batch
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import (
    BackendUnavailable,
    EngineFault,
    InferenceFailed,
    ModelLoadFailed,
    PolicyFolderError,
)
from inference_service.core.policy import BackendOptions
from inference_service.core.policy_folder import PolicyFolder

ROOT = Path(__file__).resolve().parents[3]


def open_policy(path: Path, device: str = "cpu", **extra: Any) -> Any:
    return load(PolicyFolder.load(path), BackendOptions(device=device, extra=extra))


def act_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    batch: Batch = {STATE: rng.standard_normal((1, DIM)).astype(np.float32)}
    return batch | {name: AffineImage(rng.integers(0, 256, (*IMAGE, 3), np.uint8)) for name in (TOP, WRIST)}


def act_answer(batch: Batch) -> np.ndarray:
    offset = batch[TOP].materialise().mean() + 10 * batch[WRIST].materialise().mean()
    return batch[STATE] + offset + np.arange(CHUNK, dtype=np.float32)[:, None]


def test_an_act_model_computes_and_leaves_nothing(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    assert policy.spec.policy_type == "act" and policy.spec.backend_type == "ascend_om" and policy.spec.device == "cpu"
    assert policy.spec.versions == {"pyacl": "simulator", "soc": "Ascend310B4", "npu": "0"}
    for seed in range(3):
        chunk = policy.predict_action_chunk(act_batch(seed))
        assert chunk.dtype == np.float32
        np.testing.assert_allclose(chunk, act_answer(act_batch(seed)), rtol=1e-5)
    policy.close()
    assert acl.simulator.finalised and not acl.simulator.initialised


def test_any_thread_may_ask(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    engine, answers = PureInferenceEngine(policy), {}

    def ask(seed: int) -> None:
        answers[seed] = engine.infer(act_batch(seed)).action

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join(30)
    for seed in range(3):
        np.testing.assert_allclose(answers[seed], act_answer(act_batch(seed)), rtol=1e-5)


def test_threads_take_turns(acl: Any, tmp_path: Path) -> None:
    """Nothing above the session sees to it that one thread's inputs are not executed by another."""
    session = OMRuntimeSession(load_sidecar(PolicyFolder.load(make_act(tmp_path / "policy")), "ascend_om"))
    answers: dict[int, list[np.ndarray]] = {n: [] for n in range(3)}

    def ask(n: int) -> None:
        inputs = [np.full(spec.shape, n, spec.dtype) for spec in session.inputs]
        answers[n].extend(session.run(inputs)[0] for _ in range(20))

    threads = [threading.Thread(target=ask, args=(n,)) for n in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    session.close()
    for n, chunks in answers.items():
        assert len(chunks) == 20 and all(np.array_equal(chunk, chunks[0]) for chunk in chunks)
        np.testing.assert_allclose(chunks[0][0, :, 0], 12 * n + np.arange(CHUNK), rtol=1e-6)


def test_a_pyacl_without_addresses_of_arrays_will_do(acl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vendor calls numpy_to_ptr deprecated."""
    monkeypatch.delattr(acl.util, "numpy_to_ptr")
    acl.simulator.trusts_addresses = True
    policy = open_policy(make_act(tmp_path / "policy"))
    np.testing.assert_allclose(policy.predict_action_chunk(act_batch()), act_answer(act_batch()), rtol=1e-5)
    policy.close()


def test_buffers_are_allocated_once(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    policy.predict_action_chunk(act_batch())
    before = dict(acl.simulator.calls)
    for seed in range(5):
        policy.predict_action_chunk(act_batch(seed))
    after = acl.simulator.calls
    made = ("rt.malloc", "create_data_buffer", "mdl.create_dataset", "mdl.load_from_file")
    assert {name: after[name] for name in made} == {name: before[name] for name in made}
    assert after["mdl.execute"] == before["mdl.execute"] + 5
    policy.close()


def test_two_policies_share_the_runtime_and_the_last_one_ends_it(acl: Any, tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy")
    first, second = open_policy(path), open_policy(path)
    first.close()
    assert acl.simulator.initialised
    assert second.predict_action_chunk(act_batch()).shape == (CHUNK, DIM)
    second.close()
    assert acl.simulator.calls["init"] == acl.simulator.calls["finalize"] == 1
    open_policy(path).close()
    assert acl.simulator.calls["init"] == acl.simulator.calls["finalize"] == 2


def test_a_runtime_that_another_library_initialised_is_left_to_it(acl: Any, tmp_path: Path) -> None:
    assert acl.init() == 0
    open_policy(make_act(tmp_path / "policy")).close()
    assert acl.simulator.initialised
    assert acl.finalize() == 0


def test_after_a_failed_call_the_models_are_loaded_again_and_the_next_request_works(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    for loads, (function, code) in enumerate(
        (("mdl.execute", 507015), ("rt.memcpy", 107000), ("rt.set_context", 107002)), start=2
    ):
        acl.simulator.fail(function, 1, code)
        with pytest.raises(InferenceFailed, match=rf"acl\.{function} returned {code}.*fault injected"):
            policy.predict_action_chunk(act_batch())
        np.testing.assert_allclose(policy.predict_action_chunk(act_batch()), act_answer(act_batch()), rtol=1e-5)
        assert acl.simulator.calls["mdl.load_from_file"] == loads
    assert acl.simulator.calls["init"] == 1, "init after finalize is not safe on every CANN"
    policy.close()


def test_a_session_takes_nothing_but_what_it_asks_for(acl: Any, tmp_path: Path) -> None:
    session = OMRuntimeSession(load_sidecar(PolicyFolder.load(make_act(tmp_path / "policy")), "ascend_om"))
    good = [np.zeros(spec.shape, spec.dtype) for spec in session.inputs]
    assert len(session.run(good)) == 1
    strided = np.zeros((1, 3, 8, 16), np.float32)[..., ::2]
    for bad in (good[0].astype(np.float64), good[0][:, :5], np.zeros((1, 7), np.float32)):
        with pytest.raises(InferenceFailed, match=rf"{STATE} float32 \[1, 6\] was given"):
            session.run([bad, *good[1:]])
    for inputs in (good[:2], [*good, good[0]], [good[0], strided, good[2]]):
        with pytest.raises(InferenceFailed, match=r"inputs were given|was given"):
            session.run(inputs)
    session.close()
    session.close()
    with pytest.raises(InferenceFailed, match="closed"):
        session.run(good)


def test_a_name_in_the_wrong_place_is_refused_even_where_others_say_nothing(acl: Any, tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy", rename={"state": "s", "top": WRIST, "wrist": "w"})
    with pytest.raises(ModelLoadFailed, match=rf"input 1 is '{WRIST}' by its name and '{TOP}' by order"):
        open_policy(path)


def test_a_device_that_keeps_failing_is_left_alone_for_a_while(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_pi05(tmp_path / "policy"))
    acl.simulator.fail("mdl.execute", 1, 507901)
    with pytest.raises(InferenceFailed, match="507901 HDC_DISCONNECT"):
        policy.predict_action_chunk(pi05_batch())
    for _ in range(3):
        acl.simulator.fail("rt.set_device", 1, 507033)
        with pytest.raises(EngineFault, match=r"so did loading again.*507033"):
            policy.predict_action_chunk(pi05_batch())
    calls = dict(acl.simulator.calls)
    with pytest.raises(EngineFault, match="had its 3 restarts in 60 s"):
        policy.predict_action_chunk(pi05_batch())
    assert acl.simulator.calls == calls
    policy.recover()
    np.testing.assert_allclose(policy.predict_action_chunk(pi05_batch()), pi05_answer(pi05_batch()), rtol=1e-3)
    assert acl.simulator.calls["init"] == 1, "init after finalize is not safe on every CANN"
    policy.close()
    with pytest.raises(EngineFault, match="closed"):
        policy.recover()


def test_an_npu_that_times_out_again_and_again_is_a_fault(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    for _ in range(4):
        acl.simulator.fail("mdl.execute", 1, 507014)
        with pytest.raises(InferenceFailed, match="507014 AICORE_TIMEOUT") as raised:
            policy.predict_action_chunk(act_batch())
        assert not isinstance(raised.value, EngineFault)
    with pytest.raises(EngineFault, match="had its 3 restarts"):
        policy.predict_action_chunk(act_batch())
    policy.close()


def test_a_device_without_memory_serves_again_when_there_is_some(acl: Any, tmp_path: Path) -> None:
    engine = PureInferenceEngine(open_policy(make_act(tmp_path / "policy")))
    acl.simulator.fail("mdl.execute", 1, 207018)
    with pytest.raises(InferenceFailed, match="out of memory"):
        engine.infer(act_batch())
    for attempt in (lambda: engine.infer(act_batch()), engine.recover):
        acl.simulator.fail("rt.malloc", 2, 207001)
        with pytest.raises(EngineFault, match=r"loading again: .*207001 MEMORY_ALLOCATION: .*end other processes"):
            attempt()
    assert engine.recover().action.shape == (CHUNK, DIM)
    np.testing.assert_allclose(engine.infer(act_batch()).action, act_answer(act_batch()), rtol=1e-5)
    engine.close()


def test_an_artifact_that_changed_is_not_loaded_in_place_of_the_old_one(acl: Any, tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy")
    policy = open_policy(path)
    save(ACT, path / "om" / "act.om", {"state": STATE, "top": WRIST, "wrist": TOP})
    with pytest.raises(EngineFault, match=r"its artifacts are others than before; restart the engine"):
        policy.recover()
    save(ACT, path / "om" / "act.om", {"state": STATE, "top": TOP, "wrist": WRIST})
    policy.recover()
    policy.close()


def test_a_bad_input_is_no_fault_of_the_device(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    with pytest.raises(InferenceFailed, match=STATE):
        policy.predict_action_chunk(act_batch() | {STATE: np.zeros((1, 5), np.float32)})
    assert policy.predict_action_chunk(act_batch()).shape == (CHUNK, DIM)
    assert acl.simulator.calls["mdl.load_from_file"] == 1
    policy.close()


@pytest.mark.parametrize("make", [make_act, make_pi05])
def test_whatever_call_fails_while_loading_nothing_stays_allocated(acl: Any, tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "policy")
    policy = open_policy(path)
    calls = dict(acl.simulator.calls)
    policy.close()
    # Without names or formats an artifact may load, and set_context is needed again to release.
    harmless = [name for name in calls if name.endswith(("_name_by_index", "_format", "set_context"))]
    assert len(harmless) == 5 and calls["rt.malloc"] >= 4
    for function, count in calls.items():
        for nth in range(1, count + 1) if function not in harmless else ():
            acl.simulator.fail(function, nth, 207001)
            with pytest.raises((ModelLoadFailed, BackendUnavailable)):
                open_policy(path)
            assert acl.simulator.leaks() == [], (function, nth)
            assert acl.simulator.journal == [], (function, nth)


@pytest.mark.breaks_rules("acl 19")
def test_a_failure_while_releasing_does_not_leak_the_rest(
    acl_rules: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = open_policy(make_act(tmp_path / "policy"))
    acl_rules.simulator.fail("mdl.destroy_dataset", 1, 100000)
    policy.close()
    assert "destroy_dataset returned 100000" in caplog.text
    assert acl_rules.simulator.journal == [line for line in acl_rules.simulator.journal if "1 datasets" in line]
    assert len(acl_rules.simulator.journal) == 1


def test_out_of_device_memory(acl: Any, tmp_path: Path) -> None:
    acl.simulator.memory_limit = 1000
    with pytest.raises(ModelLoadFailed, match=r"act\.om: acl\.rt\.malloc.*207001 .*out of memory"):
        open_policy(make_act(tmp_path / "policy"))


def test_an_artifact_for_another_chip(acl: Any, tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy")
    save(ACT, path / "om" / "act.om", soc_version="Ascend310P3")
    with pytest.raises(ModelLoadFailed, match=r"act\.om.*545001.*--soc_version.*Ascend310P3, this is Ascend310B4"):
        open_policy(path)


@pytest.mark.parametrize("content", [b"junk" * 100, None])
def test_a_damaged_artifact(acl: Any, tmp_path: Path, content: bytes | None) -> None:
    artifact = make_act(tmp_path / "policy") / "om" / "act.om"
    artifact.write_bytes(artifact.read_bytes()[:-40] if content is None else content)
    with pytest.raises(ModelLoadFailed, match=r"act\.om: acl\.mdl\.load_from_file returned 545001"):
        open_policy(artifact.parents[1])


def test_an_artifact_of_another_policy(acl: Any, tmp_path: Path) -> None:
    cases = {
        "two inputs": (ACT.replace(", float[1,3,8,8] wrist", "").replace("(wrist)", "(top)"), "has 2 inputs"),
        "dynamic": (ACT.replace("float[1,6] state", "float[n,6] state"), "is dynamic; convert with static shapes"),
        "another camera size": (
            ACT.replace("float[1,3,8,8] wrist", "float[1,3,8,16] wrist"),
            rf"is \[1, 3, 8, 16\] NCHW, but '{WRIST}'",
        ),
        "another chunk": (
            ACT.replace("[1,4,6]", "[1,2,6]").replace("[1,4,1] steps = {0, 1, 2, 3}", "[1,2,1] steps = {0, 1}"),
            r"\[1, 2, 6\], config\.json gives a chunk of 4 actions of 6",
        ),
        "pixels": (
            ACT.replace("float[1,3,8,8] top", "uint8[1,3,8,8] top")
            .replace("Mean<keepdims=0>(top)", "Mean<keepdims=0>(p)")
            .replace("   first", "   p = Cast<to=1>(top)\n   first"),
            "takes uint8, expected float32",
        ),
    }
    for name, (text, message) in cases.items():
        path = make_act(tmp_path / name, text)
        with pytest.raises(ModelLoadFailed, match=message):
            open_policy(path)


def test_swapped_cameras_are_caught_by_bindings(acl: Any, tmp_path: Path) -> None:
    swapped = ACT.replace("float[1,3,8,8] top, float[1,3,8,8] wrist", "float[1,3,8,8] wrist, float[1,3,8,8] top")
    declared = [{"name": name, "index": index} for index, name in enumerate((STATE, TOP, WRIST))]
    path = make_act(tmp_path / "policy", swapped, bindings={"policy": {"inputs": declared}})
    with pytest.raises(ModelLoadFailed, match=rf"'{TOP}' at index 1: the artifact has it at index 2"):
        open_policy(path)
    make_act(tmp_path / "policy", swapped)
    policy = open_policy(path)
    assert policy.input_order == (STATE, WRIST, TOP)
    np.testing.assert_allclose(policy.predict_action_chunk(act_batch()), act_answer(act_batch()), rtol=1e-5)
    policy.close()


def test_inputs_without_names_come_in_order_and_the_log_says_which(
    acl: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_act(tmp_path / "policy", rename={})
    with caplog.at_level(logging.INFO):
        policy = open_policy(path)
    assert f"inputs: 0 {STATE}, 1 {TOP}, 2 {WRIST}" in caplog.text
    np.testing.assert_allclose(policy.predict_action_chunk(act_batch()), act_answer(act_batch()), rtol=1e-5)
    policy.close()


def test_config_json_may_give_the_order(acl: Any, tmp_path: Path) -> None:
    from policies import make_plain_folder

    order = [STATE, WRIST, TOP]
    path = make_act(tmp_path / "policy", rename={})
    make_plain_folder(path, image=IMAGE, chunk_size=CHUNK, compiled_runtime_input_order=order)
    policy = open_policy(path)
    assert policy.input_order == tuple(order)
    policy.close()
    make_plain_folder(path, image=IMAGE, chunk_size=CHUNK, input_order=[STATE, TOP])
    with pytest.raises(PolicyFolderError, match=r"config\.json: key 'input_order' must list each of"):
        open_policy(path)
    make_act(path)
    make_plain_folder(path, image=IMAGE, chunk_size=CHUNK, runtime_input_order=order)
    with pytest.raises(ModelLoadFailed, match=r"the declared input order is .* the artifact has"):
        open_policy(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "declared as float16, the artifact has float32"),
        ({"shape": [1, 7]}, r"declared as \[1, 7\], the artifact has \[1, 6\]"),
        ({"runtime_name": "robot"}, "declared as 'robot', the artifact has 'observation.state' there"),
    ],
)
def test_bindings_must_be_what_the_artifact_says(
    acl: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    inputs = [{"name": name, "index": index} for index, name in enumerate((STATE, TOP, WRIST))]
    inputs[0] |= change
    with pytest.raises(ModelLoadFailed, match=rf"config\.om\.json and act\.om: .*{message}"):
        open_policy(make_act(tmp_path / "policy", bindings={"policy": {"inputs": inputs}}))


def test_which_chip(acl: Any, tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy", backend_config={"device_id": 1})
    with pytest.raises(BackendUnavailable, match=r"acl\.rt\.set_device\(1\) returned 107001.*npu-smi"):
        open_policy(path)
    acl.simulator.device_count = 2
    policy = open_policy(path)
    assert policy.spec.versions["npu"] == "1"
    policy.close()
    open_policy(path, device="0").close()
    with pytest.raises(BackendUnavailable, match="no device 'cuda'"):
        open_policy(path, device="cuda")


def test_a_driver_that_does_not_answer(acl: Any, tmp_path: Path) -> None:
    acl.simulator.fail("init", 1, 507008)
    with pytest.raises(BackendUnavailable, match=r"acl\.init returned 507008 SOC_VERSION.*driver"):
        open_policy(make_act(tmp_path / "policy"))


def test_without_cann_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="install CANN"):
        open_policy(make_act(tmp_path / "policy"))


def test_pyacl_is_imported_only_when_the_backend_loads(tmp_path: Path) -> None:
    path = make_act(tmp_path / "policy")
    code = (
        "import sys\n"
        "from inference_service.backends import registry\n"
        "from inference_service.backends.compiled import ascend, policy, sidecar\n"
        "from inference_service.core.policy_folder import PolicyFolder\n"
        f"folder = PolicyFolder.load({str(path)!r})\n"
        "assert 'acl' not in sys.modules and 'onnxruntime' not in sys.modules and 'torch' not in sys.modules\n"
        "from inference_service.core.policy import BackendOptions\n"
        "policy = ascend.load(folder, BackendOptions())\n"
        "assert 'acl' in sys.modules and 'torch' not in sys.modules and 'rknnlite' not in sys.modules\n"
        "policy.close()\n"
    )
    journal = tmp_path / "journal"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{SIMULATORS}", "ACL_SIM_JOURNAL": str(journal)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not journal.exists()


def pi05_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    names = ("observation.images.left", "observation.images.right")
    batch: Batch = {name: AffineImage(rng.integers(0, 256, (12, 16, 3), np.uint8)) for name in names}
    batch[STATE] = np.zeros((1, DIM), np.float32)
    batch[TOKENS] = rng.integers(0, 1000, (1, 5))
    batch[LANGUAGE_MASK] = np.array([[True, True, True, False, False]])
    return batch | {BATCH_NOISE: rng.standard_normal((1, CHUNK, 8)).astype(np.float32)}


def pi05_answer(batch: Batch, steps: int = 10) -> np.ndarray:
    left, right = (batch[f"observation.images.{side}"].materialise().mean() for side in ("left", "right"))
    # 12 of 16 rows are picture, the rest is black.
    heard = (batch[TOKENS] * batch[LANGUAGE_MASK]).mean()
    context = float(np.float16(0.75 * left + 2 * 0.75 * right + heard))
    x = batch[BATCH_NOISE].astype(np.float64)
    for step in range(steps):
        x = x - (x * (1 - step / steps) + context + 11 / 13) / steps
    return x[0, :, :DIM]


@pytest.mark.parametrize("integrates", [False, True])
def test_pi05_denoises_in_ten_steps_whoever_integrates(acl: Any, tmp_path: Path, integrates: bool) -> None:
    policy = open_policy(make_pi05(tmp_path / "policy", integrates))
    assert policy.spec.policy_type == "pi05" and (policy.spec.chunk_size, policy.spec.action_dim) == (CHUNK, DIM)
    for seed in range(2):
        np.testing.assert_allclose(
            policy.predict_action_chunk(pi05_batch(seed)), pi05_answer(pi05_batch(seed)), rtol=1e-3
        )
    assert acl.simulator.calls["mdl.execute"] == 2 * (1 + 10)
    policy.close()


def test_pi05_outputs_of_the_vlm_stay_on_the_device(acl: Any, tmp_path: Path) -> None:
    policy = open_policy(make_pi05(tmp_path / "policy"))
    simulator, copies = acl.simulator, []
    vlm, expert = policy._session._vlm, policy._session._expert
    assert [t.pointer for t in expert.input_memory[:2]] == [t.pointer for t in vlm.output_memory]
    shared = {tensor.pointer for tensor in vlm.output_memory}
    original = acl.rt.memcpy

    def memcpy(target: int, room: int, source: int, count: int, kind: int) -> int:
        copies.append((target, source))
        return original(target, room, source, count, kind)

    acl.rt.memcpy = memcpy
    try:
        policy.predict_action_chunk(pi05_batch())
    finally:
        acl.rt.memcpy = original
    assert copies and not any(shared & {*pair} for pair in copies)
    assert simulator.journal == []
    policy.close()


def test_pi05_with_the_same_noise_gives_the_same_chunk(acl: Any, tmp_path: Path) -> None:
    path = make_pi05(tmp_path / "policy")
    policy, other = open_policy(path), open_policy(path, seed=1)
    batch = {name: value for name, value in pi05_batch().items() if name != BATCH_NOISE}
    first = policy.predict_action_chunk(batch)
    policy.predict_action_chunk(pi05_batch(1))
    assert np.array_equal(policy.predict_action_chunk(batch), first)
    assert not np.array_equal(other.predict_action_chunk(batch), first)
    policy.close()
    other.close()


def test_pi05_warms_up_behind_the_engine(acl: Any, tmp_path: Path) -> None:
    engine = PureInferenceEngine(open_policy(make_pi05(tmp_path / "policy")))
    assert engine.warm_up().action.shape == (CHUNK, DIM)
    engine.close()


def test_pi05_schedule_of_the_sidecar(acl: Any, tmp_path: Path) -> None:
    denoising = {"model_output": "velocity", "timesteps": [1.0, 0.5, 0.0]}
    policy = open_policy(make_pi05(tmp_path / "policy", denoising=denoising))
    np.testing.assert_allclose(policy.predict_action_chunk(pi05_batch()), pi05_answer(pi05_batch(), 2), rtol=1e-3)
    assert acl.simulator.calls["mdl.execute"] == 3
    policy.close()


def test_pi05_without_denoising_takes_the_graph_to_integrate_and_says_so(
    acl: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = open_policy(make_pi05(tmp_path / "policy", integrates=True, denoising=None))
    assert "has no 'denoising'" in caplog.text
    np.testing.assert_allclose(policy.predict_action_chunk(pi05_batch()), pi05_answer(pi05_batch()), rtol=1e-3)
    policy.close()


def test_pi05_artifacts_that_do_not_fit_together(acl: Any, tmp_path: Path) -> None:
    path = make_pi05(tmp_path / "policy")
    shutil.copy(path / "vlm.om", path / "action_expert.om")
    with pytest.raises(ModelLoadFailed, match=r"action_expert\.om takes 5 inputs; expected 4"):
        open_policy(path)
    text = (path / "config.om.json").read_text()
    write_sidecar(path, policy_type="pi05", artifacts={"vlm": "action_expert.om"})
    with pytest.raises(PolicyFolderError, match="lacks 'action_expert'"):
        open_policy(path)
    (path / "config.om.json").write_text(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (TOKENS, None, "lacks 'observation.language.tokens'"),
        (TOKENS, np.zeros((1, 7), np.int64), "the artifact takes .1, 5."),
        (TOKENS, np.full((1, 5), 0.5), "values that are no int64"),
        (BATCH_NOISE, np.zeros((1, 2, 8), np.float32), "'_noise' is"),
        ("observation.images.left", None, "lacks 'observation.images.left'"),
    ],
)
def test_pi05_bad_batches(acl: Any, tmp_path: Path, key: str, value: Any, message: str) -> None:
    policy = open_policy(make_pi05(tmp_path / "policy"))
    batch = pi05_batch()
    if value is None:
        del batch[key]
    else:
        batch[key] = value
    with pytest.raises(InferenceFailed, match=message):
        policy.predict_action_chunk(batch)
    policy.close()


def test_the_prefix_mask_is_the_outer_product_of_what_is_visible() -> None:
    mask = prefix_mask(np.array([[True, False]]), 4)
    assert mask.shape == (1, 1, 4, 4) and mask.dtype == np.float32
    assert np.array_equal(mask[0, 0, :3, :3], np.zeros((3, 3), np.float32))
    assert np.array_equal(mask[0, 0, 3], np.full(4, MASKED, np.float32))
    assert np.array_equal(mask[0, 0, :, 3], np.full(4, MASKED, np.float32))
