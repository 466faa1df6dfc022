"""PI0.5 on ``ascend_om`` against LeRobot's own class: same weights, same noise, ten steps, over the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("lerobot")
pytest.importorskip("transformers")

from compiled_models import write_sidecar
from tiny_pi05 import CHUNK, PADDED_DIM, export, make_tiny_pi05, small_backbones

from inference_service import cli
from inference_service.backends import registry
from inference_service.backends.compiled.ascend import load
from inference_service.backends.compiled.pi05_adapter import BATCH_NOISE, rtc_settings
from inference_service.core.batch import Batch, materialise
from inference_service.core.errors import PolicyFolderError
from inference_service.core.policy import BackendOptions, InferenceContext, LeftOver
from inference_service.core.policy_folder import PolicyFolder
from inference_service.policy_parity import batches_of, random_observations

# Of chunks whose largest value is about 6.
EXACT, HALF = 2e-4, 0.15
# Importing LeRobot takes most of it, on a machine that is busy.
pytestmark = pytest.mark.timeout(300)
DIM = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A policy directory with both pairs of graphs, and LeRobot's policy object."""
    import torch

    path = tmp_path_factory.mktemp("pi05") / "policy"
    # Threads that wait for each other after every one of its small products would take most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    policy = make_tiny_pi05(path)
    for name, half in (("float32", False), ("float16", True)):
        export(policy, path / name / "vlm.om", path / name / "action_expert.om", half)
    yield path, policy
    torch.set_num_threads(threads)


@pytest.fixture
def directory(made: tuple[Path, Any]) -> Path:
    declare(made[0])
    return made[0]


def declare(path: Path, kind: str = "float32", model_output: str = "velocity") -> None:
    write_sidecar(
        path,
        policy_type="pi05",
        artifact_dir=kind,
        artifacts={"vlm": "vlm.om", "action_expert": "action_expert.om"},
        execution=["vlm", "action_expert"],
        denoising={"model_output": model_output},
    )


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = {"ascend_om": "compiled.ascend", "lerobot": "lerobot_torch"}
    points = [EntryPoint(name, f"inference_service.backends.{m}:load", registry.GROUP) for name, m in modules.items()]
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)]
    )
    with small_backbones():
        yield


def parity(path: Path, tolerance: float) -> int:
    words = ["--device", "ascend_om", "--reference", "torch", "--count", "3", "--tolerance", str(tolerance)]
    return cli.main(["policy", "parity", str(path), *words])


def batch_of(path: Path) -> Batch:
    folder = PolicyFolder.load(path)
    return batches_of(folder, random_observations(folder, 1, 0), 0)[0]


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", EXACT), ("float16", HALF)])
def test_actions_are_those_of_lerobot(
    acl: Any, directory: Path, kind: str, tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(directory, kind)
    assert parity(directory, tolerance) == 0, capsys.readouterr()
    assert "on 3 observations" in capsys.readouterr().out
    assert acl.simulator.calls["mdl.execute"] == 3 * (1 + 10)


def test_parity_sees_a_wrong_integrator(acl: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(directory, model_output="x_t")
    assert parity(directory, HALF) == 1
    assert "NOT OK: tolerance" in capsys.readouterr().out


def test_pictures_prompt_and_noise_all_count(acl: Any, directory: Path) -> None:
    """Else a parity of random weights would prove little."""
    policy = load(PolicyFolder.load(directory), BackendOptions())
    batch = batch_of(directory)
    chunk = policy.predict_action_chunk(batch)
    assert np.abs(chunk - batch[BATCH_NOISE][0, :, :DIM]).mean() > 0.1, "the model moved nothing"
    others = [name for name in batch if name.startswith("observation.images")]
    changed = {name: materialise(batch[name]) * np.float32(0.5) for name in others}
    changed["observation.language.tokens"] = batch["observation.language.tokens"][:, ::-1].copy()
    changed[BATCH_NOISE] = -batch[BATCH_NOISE]
    for name, value in changed.items():
        assert np.abs(policy.predict_action_chunk(batch | {name: value}) - chunk).max() > 1e-3, name
    policy.close()


def test_a_request_s_seed_gives_the_noise(acl: Any, directory: Path) -> None:
    policy = load(PolicyFolder.load(directory), BackendOptions())
    batch = batch_of(directory)
    noise = np.random.default_rng(7).standard_normal((1, CHUNK, PADDED_DIM), np.float32)
    drawn = policy.predict_action_chunk(batch | {BATCH_NOISE: noise})
    del batch[BATCH_NOISE]
    assert np.array_equal(policy.predict_action_chunk(batch, InferenceContext(seed=7)), drawn)
    assert not np.array_equal(policy.predict_action_chunk(batch, InferenceContext(seed=8)), drawn)
    assert not np.array_equal(policy.predict_action_chunk(batch), drawn)
    policy.close()


@contextmanager
def rtc(policy: Any, **settings: Any) -> Iterator[None]:
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    policy.config.rtc_config = RTCConfig(enabled=True, **settings)
    policy.init_rtc_processor()
    yield
    policy.config.rtc_config = None
    policy.rtc_processor = policy.model.rtc_processor = None


@pytest.mark.parametrize("schedule", ["LINEAR", "EXP"])
def test_real_time_chunking_is_that_of_lerobot(
    acl: Any, made: tuple[Path, Any], directory: Path, schedule: str
) -> None:
    import torch
    from lerobot.configs.types import RTCAttentionSchedule

    folder = PolicyFolder.load(directory)
    folder.config.raw["rtc_config"] = {"prefix_attention_schedule": schedule, "max_guidance_weight": 5.0}
    compiled, batch = load(folder, BackendOptions()), batch_of(directory)
    assert compiled.spec.supports_rtc
    rest = np.random.default_rng(3).standard_normal((5, DIM)).astype(np.float32)
    tensors = {k: torch.from_numpy(np.array(materialise(v))) for k, v in batch.items() if not isinstance(v, list)}
    noise = tensors.pop(BATCH_NOISE)
    with rtc(made[1], prefix_attention_schedule=RTCAttentionSchedule(schedule), max_guidance_weight=5.0):
        padded = torch.nn.functional.pad(torch.from_numpy(rest), (0, PADDED_DIM - DIM))[None]
        expected = made[1].predict_action_chunk(
            tensors, noise=noise, inference_delay=2, prev_chunk_left_over=padded, execution_horizon=4
        )[0]
    context = InferenceContext(left_over=LeftOver(rest, inference_delay=2, execution_horizon=4))
    chunk = compiled.predict_action_chunk(batch, context)
    np.testing.assert_allclose(chunk, expected.numpy(), atol=EXACT)
    free = compiled.predict_action_chunk(batch)
    assert np.abs(chunk[:2] - rest[:2]).mean() < 0.2 * np.abs(free[:2] - rest[:2]).mean(), "what is due is kept"
    compiled.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], None),
        ("on", "must be an object"),
        ({"prefix_attention_schedule": "COSINE"}, "expected one of LINEAR, EXP, ONES, ZEROS"),
        ({"max_guidance_weight": 0}, "expected a number above 0"),
        ({"max_guidance_weight": "10"}, "expected a number above 0"),
    ],
)
def test_wrong_settings_of_real_time_chunking_are_named(directory: Path, settings: Any, message: str | None) -> None:
    folder = PolicyFolder.load(directory)
    folder.config.raw["rtc_config"] = settings
    if message is None:
        assert rtc_settings(folder).max_guidance_weight == 10
        return
    with pytest.raises(PolicyFolderError, match=rf"config\.json: key 'rtc_config'.*{message}"):
        rtc_settings(folder)
