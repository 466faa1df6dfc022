"""LeRobot's own classes behind the interface: equal to LeRobot, offline, stateless, typed errors."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inference_service.backends import lerobot_torch as backend
from inference_service.backends.lerobot_families import REFUSED
from inference_service.backends.lerobot_options import LeRobotOptions
from inference_service.core.batch import AffineImage
from inference_service.core.errors import BackendError, BackendUnavailable, InferenceFailed, ModelLoadFailed
from inference_service.core.image_norm import ImageNorm
from inference_service.core.policy import BackendOptions, PolicySpec
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from policies import make_act_folder, make_observation, make_plain_folder

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

IMAGE = (32, 48)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_act_folder(tmp_path_factory.mktemp("act"), image=IMAGE, chunk_size=8, dim_model=32)


@pytest.fixture(scope="module")
def policy(path: Path) -> Iterator[backend.LeRobotPolicy]:
    policy = load(path)
    yield policy
    policy.close()


def load(path: Path, device: str = "cpu", threads: int = 0, **extra: Any) -> backend.LeRobotPolicy:
    return backend.load(PolicyFolder.load(path), BackendOptions(device, threads, extra))


def copy_of(path: Path, target: Path, config: dict[str, Any] | None = None) -> Path:
    """The policy with ``config`` merged into its config.json; other files are links."""
    target.mkdir()
    for file in path.iterdir():
        (target / file.name).symlink_to(file)
    if config is not None:
        (target / "config.json").unlink()
        merged = json.loads((path / "config.json").read_text()) | config
        (target / "config.json").write_text(json.dumps(merged))
    return target


def spec_of(policy_type: str) -> PolicySpec:
    return PolicySpec(policy_type, "lerobot", "cpu", 8, 6, {})


def test_robot_actions_equal_lerobots_own_number_for_number(path: Path, policy: backend.LeRobotPolicy) -> None:
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.utils import prepare_observation_for_inference

    theirs = ACTPolicy.from_pretrained(path)
    pre, post = make_pre_post_processors(theirs.config, pretrained_path=str(path))
    folder = PolicyFolder.load(path)
    preprocess, postprocess = TensorPreprocessor(folder), TensorPostprocessor(folder)
    for seed in range(3):
        observation = make_observation(image=IMAGE, seed=seed)
        batch = pre(prepare_observation_for_inference(dict(observation), torch.device("cpu")))
        expected = post(theirs.predict_action_chunk(batch))[0].numpy()
        prepared = preprocess(observation)
        actions = postprocess(policy.predict_action_chunk(prepared.batch), prepared.context)
        assert np.array_equal(actions.view(np.uint32), expected.view(np.uint32))


def test_loading_asks_no_network_and_leaves_no_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config names ImageNet weights, as nearly every ACT checkpoint does, and a device that is not here."""
    weights = {"pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1", "device": "cuda"}
    usual = copy_of(path, tmp_path / "usual", weights)

    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"the network was asked: {arguments}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing downloaded before"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    policy = load(usual)
    assert policy.spec.device == "cpu"
    assert list(temporary.iterdir()) == []
    assert json.loads((usual / "config.json").read_text())["device"] == "cuda"


def test_half_precision_weights_compute_in_float32(path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    halved = copy_of(path, tmp_path / "halved")
    (halved / "model.safetensors").unlink()
    weights = {name: tensor.half() for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(weights, halved / "model.safetensors")
    inner = load(halved)._policy
    for name, parameter in inner.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights[name].float())


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_families_that_cannot_be_served_are_refused(family: str, tmp_path: Path) -> None:
    make_plain_folder(tmp_path, type=family)
    with pytest.raises(ModelLoadFailed, match=rf"config\.json: policy type '{family}' cannot be served: it "):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "acme"}, "'acme' is not known here; known: act,"),
        ({"type": "pi05", "use_visual_memory": True}, "memory keeps past observations"),
        ({"use_peft": True}, "merge the adapter"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    make_plain_folder(tmp_path, **config)
    with pytest.raises(ModelLoadFailed, match=says):
        load(tmp_path)


def test_weights_that_lack_a_parameter_or_hold_a_foreign_one_are_refused(path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    for number, change in enumerate(({"model.action_head.bias": None}, {"foreign.weight": torch.zeros(1)})):
        damaged = copy_of(path, tmp_path / str(number))
        (damaged / "model.safetensors").unlink()
        changed = {name: tensor for name, tensor in (weights | change).items() if tensor is not None}
        save_file(changed, damaged / "model.safetensors")
        (name,) = change
        with pytest.raises(ModelLoadFailed, match=name):
            load(damaged)
    assert load(damaged, strict=False).spec.policy_type == "act"


def test_a_checkpoint_of_another_lerobot_says_so_by_version(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lerobot
    from lerobot.configs import PreTrainedConfig

    version = rf"lerobot {lerobot.__version__}, which is installed here"
    newer = copy_of(path, tmp_path / "newer", {"no_such_field": 1, "another": 2})
    with pytest.raises(ModelLoadFailed, match=rf"config\.json: .*'act' in {version}, has no another, no_such_field"):
        load(newer)
    monkeypatch.setattr(PreTrainedConfig, "get_known_choices", lambda: {"pi0": None})
    with pytest.raises(ModelLoadFailed, match=rf"'act' is not in {version} \(it has pi0\)"):
        load(path)


def test_devices_that_are_not_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"'cuda'.*finds no GPU; use cpu, onnx or auto"):
        load(path, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BackendUnavailable, match=r"cuda:0 to cuda:1"):
        load(path, "cuda:2")
    with pytest.raises(BackendUnavailable, match="no device 'mps'"):
        load(path, "mps")
    with pytest.raises(BackendError, match=r"no option 'sede'; did you mean 'seed'\?"):
        load(path, sede=1)


def test_the_number_of_threads_is_set(path: Path) -> None:
    before = torch.get_num_threads()
    try:
        load(path, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; end other"),
        (RuntimeError("a kernel broke"), "act on cpu failed: a kernel broke"),
    ],
)
def test_a_broken_forward_pass_is_a_typed_error(error: Exception, says: str) -> None:
    def broken(batch: Any) -> None:
        raise error

    policy = backend.LeRobotPolicy(SimpleNamespace(predict_action_chunk=broken), spec_of("act"))
    with pytest.raises(InferenceFailed, match=says) as caught:
        policy.predict_action_chunk({})
    assert caught.value.__cause__ is error


def test_policies_that_draw_noise_are_repeatable_and_leave_the_generator_alone() -> None:
    flow = SimpleNamespace(predict_action_chunk=lambda batch: torch.randn(1, 8, 6))
    policy = backend.LeRobotPolicy(flow, spec_of("xvla"))
    torch.manual_seed(123)
    expected_next = torch.randn(1)
    torch.manual_seed(123)
    first = policy.predict_action_chunk({})
    assert torch.equal(torch.randn(1), expected_next)
    assert np.array_equal(policy.predict_action_chunk({}), first)
    other = backend.LeRobotPolicy(flow, spec_of("xvla"), LeRobotOptions(seed=1))
    assert not np.array_equal(other.predict_action_chunk({}), first)


@pytest.mark.parametrize("kind", ["identity", "mean_std", "min_max"])
def test_normalising_by_look_up_equals_arithmetic_bit_for_bit(kind: Any) -> None:
    """The code that runs on a GPU, on CPU tensors."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    norm = ImageNorm(kind, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    table = torch.from_numpy(np.array(norm.table(3)))
    looked_up = backend.apply_table(torch, torch.from_numpy(pixels), table).numpy()
    expected = AffineImage(pixels, norm).materialise()
    assert looked_up.shape == (1, 3, 5, 7)
    assert np.array_equal(looked_up.view(np.uint32), expected.view(np.uint32))


def test_double_arrays_and_tensors_are_taken(policy: backend.LeRobotPolicy, path: Path) -> None:
    batch = TensorPreprocessor(PolicyFolder.load(path))(make_observation(image=IMAGE)).batch
    expected = policy.predict_action_chunk(batch)
    state = np.array(batch["observation.state"])
    for same in (state.astype(np.float64), torch.from_numpy(state)):
        assert np.array_equal(policy.predict_action_chunk(batch | {"observation.state": same}), expected)


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_stays_as_it_is_whatever_the_model_does() -> None:
    careless = SimpleNamespace(predict_action_chunk=lambda batch: batch["observation.state"].add_(1))
    state = np.zeros((1, 8, 6), np.float32)
    state.flags.writeable = False
    backend.LeRobotPolicy(careless, spec_of("act")).predict_action_chunk({"observation.state": state})
    assert not state.any()


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_actions(policy: backend.LeRobotPolicy, path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    on_gpu = load(path, "cuda")
    assert on_gpu.spec.device == f"cuda:{torch.cuda.current_device()}"
    batch = TensorPreprocessor(PolicyFolder.load(path))(make_observation(image=IMAGE)).batch
    batch = {name: replace(value) if isinstance(value, AffineImage) else value for name, value in batch.items()}
    expected = policy.predict_action_chunk(batch)
    assert np.abs(on_gpu.predict_action_chunk(batch) - expected).max() < 5e-3 * np.abs(expected).max()
    on_gpu.close()
