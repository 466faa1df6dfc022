"""What every PolicyWrapper must do, run over each backend whose library is installed.

A new backend joins by a line in BACKENDS, and one in SIDECARS where its artifact is a compiled one. The policy is
the demo policy of this repository; vendors' runtimes are the simulators, whose journals must stay empty.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import resource
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.batch import AffineImage, Batch, FeatureType, materialise
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import BackendError, EngineFault, ModelLoadFailed
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy import BackendOptions, InferenceContext, PolicyWrapper, RecoverablePolicy
from inference_service.core.policy_folder import PolicyFolder
from tests.policies import make_plain_folder
from tests.simulators.rknnlite.rig import installed, tiny_model
from tests.simulators.sd3403.rig import SD3403Simulator, stub_model

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "policies" / "so101_act_demo"
SIMULATORS = ROOT / "tests" / "simulators"
# backend: (module of the factory, library it needs, artifact it reads, largest relative difference from LeRobot)
BACKENDS = {
    "onnx": ("inference_service.backends.onnx", "onnxruntime", "model.onnx", 1e-5),
    "lerobot": ("inference_service.backends.lerobot_torch", "lerobot", "model.safetensors", 0.0),
    "ascend_om": ("inference_service.backends.compiled.ascend", "onnxruntime", "om/act.om", 1e-5),
    "ascend_om_3403": ("inference_service.backends.compiled.sd3403", "onnxruntime", "om/act.om", 1e-5),
    "rknn": ("inference_service.backends.compiled.rknn", "onnxruntime", "model.rknn", 1e-5),
}
# backend: (sidecar, its content). The artifact is the demo policy's ONNX graph, which the simulators compute.
SIDECARS: dict[str, tuple[str, dict[str, object]]] = {
    "ascend_om": ("config.om.json", {"artifacts": {"policy": "om/act.om"}, "execution": ["policy"]}),
    "ascend_om_3403": (
        "config.om.json",
        {"artifacts": {"policy": "om/act.om", "worker": "om/worker"}, "execution": ["policy", "worker"]},
    ),
    "rknn": ("config.rknn.json", {"artifacts": {"policy": "model.rknn"}}),
}
# What a process must not have imported before its backend was chosen.
VENDORS = ("acl", "rknnlite", "onnxruntime", "torch", "lerobot")
NORM = ImageNorm("mean_std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    if find_spec(BACKENDS[request.param][1]) is None:
        pytest.skip(f"{BACKENDS[request.param][1]} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def folder(backend: str, tmp_path_factory: pytest.TempPathFactory, sd3403_worker: SD3403Simulator) -> PolicyFolder:
    if backend not in SIDECARS:
        return PolicyFolder.load(DEMO)
    path = tmp_path_factory.mktemp(backend) / "policy"
    shutil.copytree(DEMO, path, ignore=shutil.ignore_patterns("model.*"))
    write_sidecar(path, backend)
    artifact = path / BACKENDS[backend][2]
    artifact.parent.mkdir(exist_ok=True)
    artifact.symlink_to(DEMO / "model.onnx")
    if backend == "ascend_om_3403":
        (path / "om" / "worker").symlink_to(sd3403_worker.script)
    return PolicyFolder.load(path)


def write_sidecar(path: Path, backend: str) -> None:
    if backend in SIDECARS:
        name, content = SIDECARS[backend]
        document = {"schema_version": 1, "policy_type": "act", "backend": backend}
        (path / name).write_text(json.dumps(document | content))


@pytest.fixture(scope="module", autouse=True)
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The vendors' modules are the simulators; at the end no rule was broken and nothing is allocated."""
    sys.path.insert(0, str(SIMULATORS))
    with installed(tmp_path_factory.mktemp("rknn")) as rknn:
        yield
        assert rknn.journal == [] and rknn.unreleased == []
    sys.path.remove(str(SIMULATORS))
    acl = sys.modules.pop("acl", None)
    if acl is not None:
        assert acl.simulator.journal == [] and acl.simulator.leaks() == []


@pytest.fixture(scope="module")
def sd3403_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SD3403Simulator]:
    simulator = SD3403Simulator(tmp_path_factory.mktemp("sd3403"))
    yield simulator
    assert simulator.journal == [] and simulator.gone()


@pytest.fixture(scope="module")
def load(backend: str) -> Callable[[PolicyFolder], PolicyWrapper]:
    factory = importlib.import_module(BACKENDS[backend][0]).load
    return lambda folder: factory(folder, BackendOptions(device="cpu"))


@pytest.fixture(scope="module")
def policy(load: Callable[[PolicyFolder], PolicyWrapper], folder: PolicyFolder) -> Iterator[PolicyWrapper]:
    policy = load(folder)
    yield policy
    policy.close()


def make_batch(folder: PolicyFolder, seed: int) -> Batch:
    """Normal state, random pictures as affine images; every array read-only, as views of a message are."""
    rng = np.random.default_rng(seed)
    batch: Batch = {"task": [""]}
    for name, feature in folder.config.input_features.items():
        if feature.type is FeatureType.VISUAL:
            channels, height, width = feature.shape
            batch[name] = AffineImage(rng.integers(0, 256, (height, width, channels), np.uint8), NORM)
            batch[name].pixels.flags.writeable = False
        else:
            batch[name] = rng.standard_normal((1, *feature.shape)).astype(np.float32)
            batch[name].flags.writeable = False
    return batch


def test_it_is_a_policy_wrapper_that_describes_itself(
    policy: PolicyWrapper, backend: str, folder: PolicyFolder
) -> None:
    assert isinstance(policy, PolicyWrapper)
    spec = policy.spec
    assert (spec.policy_type, spec.backend_type, spec.device) == ("act", backend, "cpu")
    assert (spec.chunk_size, spec.action_dim) == (50, 6)
    assert list(spec.input_features.items()) == list(folder.config.input_features.items())
    assert spec.versions and all(isinstance(version, str) and version for version in spec.versions.values())


def test_nothing_is_imported_before_the_backend_is_loaded(backend: str) -> None:
    code = (
        f"import sys, {BACKENDS[backend][0]}\n"
        "from inference_service.backends import registry\n"
        f"early = [name for name in {VENDORS} if name in sys.modules]\n"
        "assert not early, early"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


def test_actions_are_those_of_lerobot(policy: PolicyWrapper, backend: str, folder: PolicyFolder) -> None:
    pytest.importorskip("lerobot")
    import torch
    from lerobot.policies.act.modeling_act import ACTPolicy

    reference = ACTPolicy.from_pretrained(DEMO)
    for seed in range(3):
        batch = make_batch(folder, seed)
        tensors = {name: torch.from_numpy(np.array(materialise(batch[name]))) for name in folder.config.input_features}
        expected = reference.predict_action_chunk(tensors)[0].numpy()
        chunk = policy.predict_action_chunk(batch)
        assert chunk.dtype == np.float32 and chunk.shape == (50, 6)
        assert np.abs(chunk - expected).max() <= BACKENDS[backend][3] * np.abs(expected).max()


def test_affine_images_and_their_tensors_are_the_same_input(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    batch = make_batch(folder, 0)
    plain = {name: value if isinstance(value, list) else materialise(value) for name, value in batch.items()}
    assert np.array_equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(plain))


def test_every_input_counts(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    batch = make_batch(folder, 0)
    chunk = policy.predict_action_chunk(batch)
    for name in folder.config.input_features:
        other = batch | {name: make_batch(folder, 1)[name]}
        assert not np.array_equal(policy.predict_action_chunk(other), chunk), name


def test_the_same_batch_gives_the_same_chunk_whatever_came_between(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    batch = make_batch(folder, 0)
    first = policy.predict_action_chunk(batch)
    kept = first.copy()
    for seed in (1, 2, 3):
        policy.predict_action_chunk(make_batch(folder, seed))
    assert np.array_equal(policy.predict_action_chunk(batch), kept)
    assert np.array_equal(first, kept), "a chunk that was handed out changed later"


def test_another_session_and_seed_are_nothing_to_a_policy_without_memory_and_noise(
    policy: PolicyWrapper, folder: PolicyFolder
) -> None:
    batch = make_batch(folder, 0)
    chunk = policy.predict_action_chunk(batch)
    assert policy.spec.n_obs_steps == 1 and not policy.spec.supports_rtc
    assert np.array_equal(policy.predict_action_chunk(batch, InferenceContext(session="other", seed=7)), chunk)


def test_the_batch_is_left_as_it_was(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    writable = {
        name: value if isinstance(value, list) else np.array(materialise(value))
        for name, value in make_batch(folder, 0).items()
    }
    before = {name: np.array(value) for name, value in writable.items()}
    policy.predict_action_chunk(writable)
    assert writable.keys() == before.keys()
    assert all(np.array_equal(writable[name], before[name]) for name in before)


def test_two_threads_get_their_own_answers(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    engine = PureInferenceEngine(policy)
    batches = [make_batch(folder, seed) for seed in (0, 1)]
    alone = [engine.infer(batch).action for batch in batches]
    answers: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def ask(who: int) -> None:
        answers[who].extend(engine.infer(batches[who]).action for _ in range(4))

    threads = [threading.Thread(target=ask, args=(who,)) for who in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for who in (0, 1):
        assert len(answers[who]) == 4
        assert all(np.array_equal(answer, alone[who]) for answer in answers[who])


def test_a_missing_input_is_a_typed_error_that_names_it(policy: PolicyWrapper, folder: PolicyFolder) -> None:
    batch = make_batch(folder, 0)
    del batch["observation.images.wrist"]
    with pytest.raises(BackendError, match=r"observation\.images\.wrist"):
        policy.predict_action_chunk(batch)
    assert policy.predict_action_chunk(make_batch(folder, 0)).shape == (50, 6)


def test_closing_twice_is_harmless_and_asking_afterwards_is_an_error(
    load: Callable[[PolicyFolder], PolicyWrapper], folder: PolicyFolder
) -> None:
    policy = load(folder)
    policy.close()
    policy.close()
    with pytest.raises(BackendError, match="closed"):
        policy.predict_action_chunk(make_batch(folder, 0))


def small_policy(backend: str, path: Path, simulators: Path) -> PolicyFolder:
    """A policy of a few kilobytes: what a runtime leaves behind, it leaves whatever the model's size."""
    if backend == "lerobot":
        return PolicyFolder.load(small_lerobot_policy(path))
    make_plain_folder(path, image=(8, 10), chunk_size=4)
    folder = PolicyFolder.load(path)
    shapes = {name: (1, *feature.shape) for name, feature in folder.config.input_features.items()}
    artifact = path / BACKENDS[backend][2]
    artifact.parent.mkdir(exist_ok=True)
    if backend == "ascend_om_3403":
        stub_model(artifact, [int(np.prod(shape)) for shape in shapes.values()], rows=4, width=6)
        (artifact.parent / "worker").symlink_to(SD3403Simulator(simulators, stub=True).script)
    else:
        tiny_model(artifact, shapes)
    write_sidecar(path, backend)
    return folder


def small_lerobot_policy(path: Path) -> Path:
    """ACT without pictures, and so without the backbone that is nearly all of it."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    names = {"observation.state": FeatureType.STATE, "observation.environment_state": FeatureType.ENV}
    config = ACTConfig(
        input_features={name: PolicyFeature(type=kind, shape=(6,)) for name, kind in names.items()},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(6,))},
        chunk_size=4,
        n_action_steps=4,
        dim_model=16,
        n_heads=2,
        dim_feedforward=16,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        device="cpu",
        push_to_hub=False,
    )
    ACTPolicy(config).save_pretrained(path)
    for pipeline in make_pre_post_processors(config):
        pipeline.save_pretrained(path)
    return path


@dataclass(frozen=True)
class Resources:
    """Of this process. ``megabytes`` is memory of its own, whoever allocated it; ``traced`` are the bytes that Python
    and NumPy took since tracing began and did not give back; ``objects`` are Python's containers."""

    files: int
    threads: int
    megabytes: float
    traced: int
    objects: int

    @classmethod
    def now(cls) -> Resources:
        gc.collect()
        # What was freed goes back to the system, as far as it can.
        ctypes.CDLL(None).malloc_trim(0)
        files, threads = (sum(1 for _ in Path(f"/proc/self/{kind}").iterdir()) for kind in ("fd", "task"))
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
        megabytes = (resident - shared) * resource.getpagesize() / 1e6
        return cls(files, threads, megabytes, tracemalloc.get_traced_memory()[0], len(gc.get_objects()))


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Nothing is logged: pytest keeps every record of a test."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
def test_opening_and_closing_50_times_leaves_nothing_behind(
    load: Callable[[PolicyFolder], PolicyWrapper], backend: str, tmp_path: Path, unlogged: None
) -> None:
    folder = small_policy(backend, tmp_path / "policy", tmp_path / "simulators")
    batch = make_batch(folder, 0)

    def use(times: int) -> Resources:
        for _ in range(times):
            policy = load(folder)
            policy.predict_action_chunk(batch)
            policy.close()
            del policy
        return Resources.now()

    first = use(10)
    tracemalloc.start()
    try:
        last = use(40)
    finally:
        tracemalloc.stop()
    assert last.files <= first.files, "file descriptors grew"
    assert last.threads <= first.threads, "threads grew"
    assert last.objects < first.objects + 20, "something is kept each time"
    # safetensors itself keeps the tensors' names of every file that it reads, 3.5 kB here.
    assert last.traced < 240_000, "memory grew by more than 6 kB each time"
    assert last.megabytes <= first.megabytes + 4, "memory grew by more than 100 kB each time"


def test_a_runtime_started_again_answers_as_before(
    load: Callable[[PolicyFolder], PolicyWrapper], folder: PolicyFolder
) -> None:
    """Only for backends that can be started again in their process."""
    policy = load(folder)
    if not isinstance(policy, RecoverablePolicy):
        policy.close()
        pytest.skip("needs a new process")
    batch = make_batch(folder, 0)
    chunk = policy.predict_action_chunk(batch)
    policy.recover()
    assert np.array_equal(policy.predict_action_chunk(batch), chunk)
    policy.close()
    with pytest.raises(EngineFault, match="closed"):
        policy.recover()


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut short"])
def test_a_damaged_artifact_is_refused_by_name(
    damage: str, load: Callable[[PolicyFolder], PolicyWrapper], backend: str, folder: PolicyFolder, tmp_path: Path
) -> None:
    artifact = Path(BACKENDS[backend][2])
    copy = tmp_path / "policy"
    shutil.copytree(folder.path, copy, ignore=shutil.ignore_patterns("model.*", artifact.name))
    if damage == "empty":
        (copy / artifact).touch()
    elif damage == "garbage":
        (copy / artifact).write_bytes(bytes(range(256)) * 16)
    elif damage == "cut short":
        (copy / artifact).write_bytes((folder.path / artifact).read_bytes()[:1_000_000])
    with pytest.raises(ModelLoadFailed, match=r"policy(/\w+/?\w*\.\w+)?"):
        load(PolicyFolder.load(copy))
