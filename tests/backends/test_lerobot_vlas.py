"""LeRobot's larger families, built small: the whole way from an observation to actions against LeRobot's own."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends import lerobot_processors
from inference_service.backends import lerobot_torch as backend
from inference_service.core.batch import Batch
from inference_service.core.engine import PureInferenceEngine
from inference_service.core.errors import BackendUnavailable, ModelLoadFailed, UnsupportedStep
from inference_service.core.policy import BackendOptions, InferenceContext, LeftOver
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from tests.families import PROMPT, lerobot_pipelines
from tests.lerobot_models import IMAGE, small_models
from tests.policies import make_observation
from tests.vision_language import OPTIONS, fast_tokenizer, make_vla_folder

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")
pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

NEEDS = {"pi0_fast": ["scipy"], "vla_jepa": ["diffusers"], "wall_x": ["peft", "torchdiffeq", "qwen_vl_utils"]}
FAMILIES = sorted(OPTIONS)


@dataclass
class Chain:
    """One policy directory: ours, and LeRobot's own."""

    folder: PolicyFolder
    policy: backend.LeRobotPolicy
    theirs: Any
    pipelines: tuple[Any, Any]

    def observation(self, seed: int) -> dict[str, Any]:
        return dict(make_observation(image=IMAGE, cameras=("top", "left_wrist"), seed=seed)) | {"task": PROMPT}

    def batch(self, seed: int) -> Batch:
        return TensorPreprocessor(self.folder)(self.observation(seed)).batch

    def our_actions(self, seed: int, context: InferenceContext) -> np.ndarray:
        prepared = TensorPreprocessor(self.folder)(self.observation(seed))
        chunk = PureInferenceEngine(self.policy).infer(prepared.batch, context).action
        return TensorPostprocessor(self.folder)(chunk, prepared.context)

    def their_actions(self, seed: int, noise: int, **guidance: Any) -> np.ndarray:
        from lerobot.policies.utils import prepare_observation_for_inference

        observation = self.observation(seed)
        task = observation.pop("task")
        pre, post = self.pipelines
        batch = pre(prepare_observation_for_inference(observation, torch.device("cpu"), task, ""))
        torch.manual_seed(noise)
        with torch.no_grad():
            chunk = self.theirs.predict_action_chunk(batch, **guidance)
        return post(chunk)[0].float().numpy()


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with small_models(), fast_tokenizer():
        yield
    torch.set_num_threads(threads)


def chain_of(path: Path, family: str, **options: Any) -> Chain:
    for module in NEEDS.get(family, []):
        pytest.importorskip(module)
    make_vla_folder(path, family, **options)
    folder = PolicyFolder.load(path)
    policy = backend.load(folder, BackendOptions("cpu", 1, {}))
    return Chain(folder, policy, their_policy(path), lerobot_pipelines(path))


def their_policy(path: Path) -> Any:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    config = PreTrainedConfig.from_pretrained(path)
    return get_policy_class(config.type).from_pretrained(path, config=config).eval()


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, _small: None) -> Any:
    made: dict[str, Chain] = {}

    def get(family: str) -> Chain:
        if family not in made:
            made[family] = chain_of(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_actions_equal_lerobots_number_for_number(chains: Any, family: str) -> None:
    chain = chains(family)
    for seed in range(2):
        expected = chain.their_actions(seed, noise=seed + 7)
        actions = chain.our_actions(seed, InferenceContext(seed=seed + 7))
        assert actions.shape == (chain.folder.config.chunk_size, 6)
        assert actions.std() > 0
        assert actions.tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("family", "option"),
    [
        ("pi0_fast", {"dtype": "bfloat16"}),
        ("xvla", {"dtype": "bfloat16"}),
        ("eo1", {"dtype": "bfloat16"}),
        ("evo1", {"vlm_dtype": "bfloat16"}),
        ("vla_jepa", {"torch_dtype": "bfloat16"}),
    ],
)
def test_bfloat16_equals_lerobots(tmp_path: Path, family: str, option: dict[str, str]) -> None:
    chain = chain_of(tmp_path, family, **option)
    wanted = getattr(torch, next(iter(option.values())))
    assert wanted in {parameter.dtype for parameter in chain.policy._policy.parameters()}
    expected = chain.their_actions(0, noise=3)
    assert chain.our_actions(0, InferenceContext(seed=3)).tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_and_nothing_outside_notices(chains: Any, family: str) -> None:
    chain = chains(family)
    before = torch.random.get_rng_state()
    first, again, other = (chain.our_actions(0, InferenceContext(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    # pi0-FAST takes the likeliest token unless its temperature says otherwise.
    assert np.array_equal(first, other) == (family == "pi0_fast")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_family_says_of_itself_holds_for_a_warm_up(chains: Any, family: str) -> None:
    spec = chains(family).policy.spec
    assert PureInferenceEngine(chains(family).policy).warm_up().action.shape == (spec.chunk_size, 6)
    assert (spec.n_obs_steps, spec.max_batch, spec.supports_rtc) == (1, 1, family == "evo1")


@pytest.mark.parametrize("schedule", ["LINEAR", "EXP"])
def test_evo1_is_guided_as_by_lerobot(chains: Any, schedule: str) -> None:
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    chain = chains("evo1")
    rtc = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule(schedule), max_guidance_weight=5)
    theirs = copy.deepcopy(chain.theirs)
    theirs.config.rtc_config = rtc
    theirs.init_rtc_processor()
    options = {"rtc_schedule": schedule, "rtc_max_guidance_weight": 5}
    guided = replace(chain, theirs=theirs, policy=backend.load(chain.folder, BackendOptions("cpu", 1, options)))
    left = LeftOver(np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32), 1, 3)
    expected = guided.their_actions(
        0,
        noise=4,
        inference_delay=left.inference_delay,
        prev_chunk_left_over=torch.from_numpy(left.actions),
        execution_horizon=left.execution_horizon,
    )
    actions = guided.our_actions(0, InferenceContext(seed=4, left_over=left))
    assert actions.tobytes() == expected.astype(np.float32).tobytes()
    unguided = guided.our_actions(0, InferenceContext(seed=4))
    assert not np.array_equal(actions, unguided)
    assert np.array_equal(unguided, chain.our_actions(0, InferenceContext(seed=4)))


def with_config(folder: PolicyFolder, path: Path, **changed: Any) -> PolicyFolder:
    """The policy with other entries in its config.json; the rest are links."""
    path.mkdir()
    for entry in folder.path.iterdir():
        (path / entry.name).symlink_to(entry)
    (path / "config.json").unlink()
    (path / "config.json").write_text(json.dumps(dict(folder.config.raw) | changed))
    return PolicyFolder.load(path)


def test_a_base_model_may_lie_inside_the_policys_directory(chains: Any, tmp_path: Path) -> None:
    chain = chains("evo1")
    moved = with_config(chain.folder, tmp_path / "moved", vlm_model_name="base")
    policy = backend.load(moved, BackendOptions("cpu", 1, {}))
    actions = replace(chain, policy=policy).our_actions(0, InferenceContext(seed=1))
    assert np.array_equal(actions, chain.our_actions(0, InferenceContext(seed=1)))


def test_a_base_model_that_is_nowhere_is_named_with_what_to_do(
    chains: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lost = with_config(chains("evo1").folder, tmp_path / "lost", vlm_model_name="acme/none")
    with pytest.raises(ModelLoadFailed, match=r"'vlm_model_name' \(acme/none\).*hf download acme/none.*inside the pol"):
        backend.load(lost, BackendOptions("cpu", 1, {}))


@pytest.mark.parametrize(
    ("family", "package", "extra"), [("evo1", "transformers", "evo1"), ("pi0_fast", "scipy", "pi")]
)
def test_a_missing_package_is_told_by_the_extra_that_has_it(
    chains: Any, monkeypatch: pytest.MonkeyPatch, family: str, package: str, extra: str
) -> None:
    from lerobot.utils import import_utils

    folder = chains(family).folder
    monkeypatch.setitem(import_utils._require_package_cache, package, False)
    with pytest.raises(BackendUnavailable, match=rf"{package}.*pip install 'inference-service\[{extra}\]'"):
        backend.load(folder, BackendOptions("cpu", 1, {}))


def planted_code(folder: PolicyFolder, tmp_path: Path) -> Path:
    """A tokenizer's directory that names a Python file of its own, which writes ``ran`` when it runs."""
    planted = tmp_path / "tokenizer"
    shutil.copytree(folder.path / "base", planted)
    settings = json.loads((planted / "processor_config.json").read_text())
    code = {"auto_map": {"AutoProcessor": "planted.Planted", "AutoTokenizer": ["planted.Planted", None]}}
    (planted / "processor_config.json").write_text(json.dumps(settings | code))
    tokenizer = json.loads((planted / "tokenizer_config.json").read_text())
    (planted / "tokenizer_config.json").write_text(json.dumps(tokenizer | code))
    (planted / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Planted: pass\n")
    return planted


def test_no_code_of_a_tokenizer_runs(chains: Any, tmp_path: Path) -> None:
    """LeRobot loads pi0-FAST's tokenizers with ``trust_remote_code``."""
    folder = chains("pi0_fast").folder
    planted = planted_code(folder, tmp_path)
    names = {"action_tokenizer_name": str(planted), "text_tokenizer_name": str(planted)}
    backend.load(with_config(folder, tmp_path / "policy", **names), BackendOptions("cpu", 1, {}))
    assert not (tmp_path / "ran").exists()


def test_no_code_of_a_tokenizer_runs_where_lerobot_processes(
    chains: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step for actions trusts the code of the tokenizer that a policy's file names."""
    from lerobot.processor import tokenizer_processor
    from transformers import AutoProcessor

    monkeypatch.setattr(tokenizer_processor, "AutoProcessor", AutoProcessor)
    folder = chains("pi0_fast").folder
    planted = planted_code(folder, tmp_path)
    changed = with_config(folder, tmp_path / "policy")
    file = changed.path / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text())
    (step,) = (step for step in pipeline["steps"] if step.get("registry_name") == "action_tokenizer_processor")
    names = {"action_tokenizer_name": str(planted), "paligemma_tokenizer_name": str(folder.path / "base")}
    step["config"] |= names | {"trust_remote_code": True}
    file.unlink()
    file.write_text(json.dumps(pipeline))
    with pytest.raises(UnsupportedStep, match=r"'Planted' in a Python file of a model's directory"):
        lerobot_processors.load(PolicyFolder.load(changed.path))
    assert not (tmp_path / "ran").exists()


def test_xvla_whose_prompts_have_any_length_is_refused(chains: Any, tmp_path: Path) -> None:
    folder = chains("xvla").folder
    changed = with_config(folder, tmp_path / "longest")
    file = changed.path / "policy_preprocessor.json"
    text = file.read_text()
    assert '"padding": "max_length"' in text
    file.unlink()
    file.write_text(text.replace('"padding": "max_length"', '"padding": "longest"'))
    with pytest.raises(ModelLoadFailed, match=r"padding: 'xvla' reads the padding too; only 'max_length' is served"):
        backend.load(PolicyFolder.load(changed.path), BackendOptions("cpu", 1, {}))
