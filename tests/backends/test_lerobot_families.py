"""Every family that can be built small, against LeRobot's own policy: histories, noise, batches, guidance."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.backends import lerobot_torch as backend
from inference_service.core.batch import Batch, materialise
from inference_service.core.engine import InferenceResult, PureInferenceEngine
from inference_service.core.errors import BackendError, InvalidObservation, ModelLoadFailed, ObservationError
from inference_service.core.policy import BackendOptions, InferenceContext, LeftOver
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.preprocessor import TensorPreprocessor
from tests.families import PROMPT
from tests.lerobot_models import IMAGE, cameras_of, make_model_folder, small_models
from tests.policies import make_observation

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")
pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

REMEMBERING = ("diffusion", "vqbet", "tdmpc", "multi_task_dit")
FLOW = ("pi0", "pi05", "smolvla")
NEEDS = {"diffusion": "diffusers", "multi_task_dit": "diffusers"}
TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"
Requests = Sequence[tuple[Batch, InferenceContext]]


@dataclass
class Case:
    """A family's policy directory, served and as LeRobot has it."""

    family: str
    folder: PolicyFolder
    policy: backend.LeRobotPolicy
    theirs: Any

    def batch(self, seed: int = 0) -> Batch:
        observation: dict[str, Any] = dict(make_observation(image=IMAGE, cameras=cameras_of(self.family), seed=seed))
        if self.folder.config.takes_prompt:
            observation["task"] = PROMPT
        return TensorPreprocessor(self.folder)(observation).batch

    def their_batch(self, seed: int = 0) -> dict[str, Any]:
        """The same batch as LeRobot's policies take it; that the processors agree is tested elsewhere."""
        return {
            key: value if isinstance(value, list) else torch.from_numpy(np.array(materialise(value)))
            for key, value in self.batch(seed).items()
        }


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    # Models this small only wait for each other on more.
    torch.set_num_threads(1)
    with small_models():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, _small: None) -> dict[str, Case]:
    return {"": Case("", tmp_path_factory, None, None)}  # type: ignore[arg-type]  # filled as asked for


def case_of(cases: dict[str, Case], family: str) -> Case:
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    if family not in cases:
        path = make_model_folder(cases[""].folder.mktemp(family), family)  # type: ignore[attr-defined]
        cases[family] = Case(family, PolicyFolder.load(path), load(path), their_policy(path))
    return cases[family]


def load(path: Path, **extra: Any) -> backend.LeRobotPolicy:
    return backend.load(PolicyFolder.load(path), BackendOptions("cpu", 1, extra))


def their_policy(path: Path) -> Any:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    config = PreTrainedConfig.from_pretrained(path)
    return get_policy_class(config.type).from_pretrained(path, config=config).eval()


def their_chunk(policy: Any, batch: dict[str, Any], seed: int) -> np.ndarray:
    """What ``select_action`` puts into its queue, asked again at every tick."""
    torch.manual_seed(seed)
    first = policy.select_action(batch)
    chunk = torch.stack([first, *policy._queues["action"]])[:, 0].numpy()
    policy._queues["action"].clear()
    return chunk


@pytest.mark.parametrize("family", REMEMBERING)
def test_two_robots_histories_equal_two_policies_of_lerobot(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)
    theirs = {"left": copy.deepcopy(case.theirs), "right": copy.deepcopy(case.theirs)}
    for tick, robot in enumerate(["left", "right", "left", "left", "right", "left"]):
        expected = their_chunk(theirs[robot], case.their_batch(tick), seed=tick)
        context = InferenceContext(session=robot, seed=tick)
        mine = case.policy.predict_action_chunk(case.batch(tick), context)
        assert mine.shape == (case.policy.spec.chunk_size, 6)
        assert mine.tobytes() == expected.tobytes(), f"tick {tick}"


@pytest.mark.parametrize("family", ["diffusion", "vqbet", "multi_task_dit"])
def test_observations_that_come_with_a_request_equal_lerobots_queues(cases: dict[str, Case], family: str) -> None:
    """Chunks at some ticks alone, of two robots, none of which the backend remembers anything."""
    case = case_of(cases, family)
    count = case.policy.spec.earlier_observations
    assert count == case.folder.config.n_obs_steps - 1 > 0
    theirs = {"left": copy.deepcopy(case.theirs), "right": copy.deepcopy(case.theirs)}
    before = dict(case.policy._histories._kept)
    for tick in range(8):
        together = []
        for number, robot in enumerate(theirs):
            seeds = [10 * number + t for t in range(max(0, tick - count), tick + 1)]
            expected = their_chunk(theirs[robot], case.their_batch(seeds[-1]), seed=tick)
            earlier = tuple(inputs_of(case, seed) for seed in seeds[:-1])
            request = (case.batch(seeds[-1]), InferenceContext("one for both", tick, earlier=earlier))
            if tick not in (0, 1, 2, 7):
                continue
            mine = case.policy.predict_action_chunk(*request)
            assert mine.tobytes() == expected.tobytes(), f"tick {tick} of the robot {robot}"
            together.append((request, mine))
        if case.policy.spec.max_batch > 1 and together:
            chunks = case.policy.predict_action_chunks([request for request, _ in together])
            assert max(np.abs(a - b).max() for a, (_, b) in zip(chunks, together, strict=True)) < 1e-5
    assert case.policy._histories._kept == before


def inputs_of(case: Case, seed: int) -> Batch:
    return {key: value for key, value in case.batch(seed).items() if key in case.folder.config.input_features}


def test_earlier_observations_that_do_not_fit_are_refused(cases: dict[str, Case]) -> None:
    case, engine = case_of(cases, "vqbet"), PureInferenceEngine(case_of(cases, "vqbet").policy)
    batch, one = case.batch(0), inputs_of(case, 1)
    assert engine.infer(batch, InferenceContext("r", earlier=(one,) * 2)).action.shape == (3, 6)
    small = one | {"observation.images.top": np.zeros((1, 3, 8, 8), np.float32)}
    hollow = {key: value for key, value in one.items() if key != "observation.state"}
    bad = one | {"observation.state": np.full((1, 6), np.nan, np.float32)}
    for earlier, why in [
        ((one,) * 3, "3 earlier observations.* takes 2"),
        ((one, small), "expected shape"),
        ((hollow,), "lacks observation.state"),
        ((one | {"observation.images.wrist": one["observation.images.top"]},), "no input observation.images.wrist"),
        ((bad,), "NaN or infinity"),
    ]:
        with pytest.raises(ObservationError, match=why):
            engine.infer(batch, InferenceContext("r", earlier=earlier))
    act = PureInferenceEngine(case_of(cases, "act").policy)
    with pytest.raises(InvalidObservation, match="takes 0"):
        act.infer(case_of(cases, "act").batch(), InferenceContext("r", earlier=(inputs_of(case_of(cases, "act"), 1),)))


@pytest.mark.parametrize("family", REMEMBERING)
def test_a_forgotten_session_begins_anew(cases: dict[str, Case], family: str) -> None:
    policy, batches = case_of(cases, family).policy, [case_of(cases, family).batch(seed) for seed in range(2)]
    fresh = policy.predict_action_chunk(batches[1], InferenceContext("fresh", seed=5))
    policy.predict_action_chunk(batches[0], InferenceContext("robot", seed=5))
    followed = policy.predict_action_chunk(batches[1], InferenceContext("robot", seed=5))
    assert not np.array_equal(followed, fresh)
    policy.predict_action_chunk(batches[0], InferenceContext("robot", seed=5))
    policy.forget("robot")
    assert np.array_equal(policy.predict_action_chunk(batches[1], InferenceContext("robot", seed=5)), fresh)
    policy.forget("never seen")


def test_a_pause_breaks_the_history(cases: dict[str, Case]) -> None:
    case = case_of(cases, "vqbet")

    def second(gap_s: float) -> np.ndarray:
        case.policy.forget("robot")
        for number, stamp in enumerate((1_000_000_000, 1_000_000_000 + int(gap_s * 1e9))):
            context = InferenceContext("robot", seed=1, stamp_ns=stamp)
            chunk = case.policy.predict_action_chunk(case.batch(number), context)
        return chunk

    assert np.array_equal(second(0.1), second(0.9))
    assert np.array_equal(second(1.1), second(-0.1))
    assert not np.array_equal(second(0.1), second(1.1))


def test_a_failed_pass_leaves_no_trace(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(cases, "vqbet")
    context = InferenceContext("robot", seed=1)
    case.policy.forget("robot")
    expected = [case.policy.predict_action_chunk(case.batch(seed), context) for seed in (0, 1)]
    case.policy.forget("robot")
    assert np.array_equal(case.policy.predict_action_chunk(case.batch(0), context), expected[0])
    with monkeypatch.context() as broken, pytest.raises(Exception, match="broken on purpose"):
        broken.setattr(case.policy._policy, "predict_action_chunk", _break)
        case.policy.predict_action_chunk(case.batch(7), context)
    assert np.array_equal(case.policy.predict_action_chunk(case.batch(1), context), expected[1])


def _break(*_: Any, **__: Any) -> None:
    raise RuntimeError("broken on purpose")


@pytest.mark.parametrize("family", FLOW)
def test_flow_policies_equal_lerobot_with_the_same_seed(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = case.theirs.predict_action_chunk(case.their_batch(seed))[0].numpy()
        mine = case.policy.predict_action_chunk(case.batch(seed), InferenceContext(seed=seed))
        assert mine.tobytes() == expected.tobytes()


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_bfloat16_policies_equal_lerobot(tmp_path: Path, family: str) -> None:
    path = make_model_folder(tmp_path, family, dtype="bfloat16")
    case = Case(family, PolicyFolder.load(path), load(path), their_policy(path))
    kinds = {parameter.dtype for parameter in case.policy._policy.parameters()}
    assert torch.bfloat16 in kinds
    torch.manual_seed(3)
    expected = case.theirs.predict_action_chunk(case.their_batch())[0].float().numpy()
    assert case.policy.predict_action_chunk(case.batch(), InferenceContext(seed=3)).tobytes() == expected.tobytes()
    widened = load(path, dtype="float32")
    assert {parameter.dtype for parameter in widened._policy.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", [*REMEMBERING, *FLOW])
def test_the_seed_decides_on_the_noise(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)

    def chunk(seed: int | None) -> np.ndarray:
        case.policy.forget("noise")
        return case.policy.predict_action_chunk(case.batch(), InferenceContext("noise", seed))

    before = torch.random.get_rng_state()
    assert np.array_equal(chunk(1), chunk(1))
    assert not np.array_equal(chunk(1), chunk(2))
    assert np.array_equal(chunk(None), chunk(0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", ["act", "diffusion", *FLOW])
def test_a_robots_chunk_is_the_same_in_a_pass_with_others(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)
    assert case.policy.spec.max_batch == 8
    requests = [(case.batch(i), InferenceContext(f"batched {i}", seed=i)) for i in range(3)]
    alone = [(case.batch(i), InferenceContext(f"alone {i}", seed=i)) for i in range(3)]
    for _ in range(2):
        together = case.policy.predict_action_chunks(requests)
        for mine, request in zip(together, alone, strict=True):
            assert np.abs(mine - case.policy.predict_action_chunk(*request)).max() < 1e-5


@pytest.mark.parametrize("family", ["vqbet", "tdmpc", "multi_task_dit"])
def test_families_that_draw_their_own_noise_go_alone(cases: dict[str, Case], family: str) -> None:
    assert case_of(cases, family).policy.spec.max_batch == 1


@pytest.mark.parametrize("family", ["act", *REMEMBERING, *FLOW])
def test_warm_up_makes_what_the_family_needs(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)
    spec = case.policy.spec
    assert PureInferenceEngine(case.policy).warm_up().action.shape == (spec.chunk_size, 6)
    assert spec.earlier_observations == spec.n_obs_steps - 1
    assert spec.n_obs_steps == (case.folder.config.n_obs_steps if family in REMEMBERING else 1)
    assert spec.supports_rtc == (family in FLOW)
    assert (TOKENS in spec.input_features) == case.folder.config.takes_prompt


def left_over(seed: int, steps: int = 6, delay: int = 2, horizon: int = 5) -> LeftOver:
    return LeftOver(np.random.default_rng(seed).standard_normal((steps, 6)).astype(np.float32), delay, horizon)


@pytest.mark.parametrize("schedule", ["LINEAR", "EXP"])
@pytest.mark.parametrize("family", FLOW)
def test_guided_chunks_equal_lerobots(cases: dict[str, Case], family: str, schedule: str) -> None:
    from lerobot.configs import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    case = case_of(cases, family)
    theirs = copy.deepcopy(case.theirs)
    theirs.config.rtc_config = RTCConfig(
        prefix_attention_schedule=RTCAttentionSchedule(schedule), max_guidance_weight=5
    )
    theirs.init_rtc_processor()
    mine = load(case.folder.path, rtc_schedule=schedule, rtc_max_guidance_weight=5)
    previous = left_over(1)
    torch.manual_seed(4)
    with torch.no_grad():
        expected = theirs.predict_action_chunk(
            case.their_batch(),
            inference_delay=previous.inference_delay,
            prev_chunk_left_over=torch.from_numpy(previous.actions),
            execution_horizon=previous.execution_horizon,
        )[0].numpy()
    guided = mine.predict_action_chunk(case.batch(), InferenceContext(seed=4, left_over=previous))
    assert guided.tobytes() == expected.tobytes()
    unguided = mine.predict_action_chunk(case.batch(), InferenceContext(seed=4))
    assert not np.array_equal(guided, unguided)
    assert np.array_equal(unguided, case.policy.predict_action_chunk(case.batch(), InferenceContext(seed=4)))


def test_each_robot_of_a_pass_is_guided_by_its_own_left_over(cases: dict[str, Case]) -> None:
    case = case_of(cases, "pi0")
    guides = [None, left_over(1), left_over(2, steps=3, delay=0, horizon=8)]
    requests = [(case.batch(i), InferenceContext(seed=i, left_over=guide)) for i, guide in enumerate(guides)]
    answers = PureInferenceEngine(case.policy).infer_many(requests)
    for answer, request in zip(answers, requests, strict=True):
        assert isinstance(answer, InferenceResult)
        assert np.abs(answer.action - case.policy.predict_action_chunk(*request)).max() < 1e-5


def test_left_over_actions_are_refused_where_the_family_takes_none(cases: dict[str, Case]) -> None:
    engine = PureInferenceEngine(case_of(cases, "act").policy)
    with pytest.raises(InvalidObservation, match="'act' on backend 'lerobot' takes no left-over actions"):
        engine.infer(case_of(cases, "act").batch(), InferenceContext(left_over=left_over(0)))


@pytest.mark.parametrize("family", FLOW)
def test_prompts_without_padding_and_integer_masks_give_the_same_chunk(cases: dict[str, Case], family: str) -> None:
    case = case_of(cases, family)
    batch = case.batch()
    length = int(batch[MASK].sum())
    assert length < batch[MASK].shape[1] == case.policy.spec.input_features[TOKENS].shape[0]
    short = batch | {TOKENS: batch[TOKENS][:, :length], MASK: batch[MASK][:, :length].astype(np.int32)}
    engine = PureInferenceEngine(case.policy)
    assert np.array_equal(engine.infer(short).action, engine.infer(batch).action)
    torch.manual_seed(0)
    theirs = case.theirs.predict_action_chunk(
        case.their_batch() | {key: torch.from_numpy(batch[key][:, :length]) for key in (TOKENS, MASK)}
    )[0].numpy()
    assert np.abs(engine.infer(short).action - theirs).max() < 1e-5


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_weights_that_lerobot_gives_up_on_in_silence_are_refused(tmp_path: Path, family: str) -> None:
    """Its from_pretrained prints a warning and returns random weights."""
    from safetensors.torch import load_file, save_file

    path = make_model_folder(tmp_path, family)
    weights = load_file(path / "model.safetensors")
    del weights["model.action_in_proj.bias"]
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ModelLoadFailed, match=r"(?s)weights were not taken over: .*action_in_proj\.bias"):
        load(path)
    (path / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ModelLoadFailed, match="weights were not taken over"):
        load(path)


def test_a_language_model_is_not_fetched_for_weights_that_are_at_hand(cases: dict[str, Case], tmp_path: Path) -> None:
    path = make_model_folder(tmp_path, "smolvla")
    text = (path / "config.json").read_text()
    assert '"load_vlm_weights": false' in text
    (path / "config.json").write_text(text.replace('"load_vlm_weights": false', '"load_vlm_weights": true'))
    policy = load(path)
    kinds = {parameter.dtype for parameter in policy._policy.model.vlm_with_expert.vlm.parameters()}
    assert kinds == {torch.bfloat16}
    case = case_of(cases, "smolvla")
    assert policy.predict_action_chunk(case.batch()).shape == (8, 6)


def test_mixed_precision_by_option(cases: dict[str, Case]) -> None:
    case = case_of(cases, "act")
    plain = case.policy.predict_action_chunk(case.batch())
    mixed = load(case.folder.path, autocast="bfloat16").predict_action_chunk(case.batch())
    assert mixed.dtype == np.float32
    assert 0 < np.abs(mixed - plain).max() < 0.05
    off = load(case.folder.path, autocast="float32").predict_action_chunk(case.batch())
    assert np.array_equal(off, plain)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"dtype": "bfloat16"}, "'act' has no dtype of its own; for mixed precision use option 'autocast'"),
        ({"dtype": "float16"}, "option 'dtype' is 'float16', known: float32, bfloat16"),
        ({"autocast": "half"}, "option 'autocast' is 'half', known: float32, bfloat16, float16"),
        ({"compile": True}, "option 'compile' is True, known: default, reduce-overhead"),
        ({"seed": "1"}, "option 'seed' must be an integer, found '1'"),
        ({"seed": True}, "option 'seed' must be an integer, found True"),
        ({"strict": 1}, "option 'strict' must be true or false, found 1"),
        ({"max_batch": 0}, "option 'max_batch' must be positive, found 0"),
        ({"history_gap_s": "long"}, "option 'history_gap_s' must be a number"),
        ({"rtc_scedule": "EXP"}, r"no option 'rtc_scedule'; did you mean 'rtc_schedule'\? Known: autocast, compile"),
    ],
)
def test_a_wrong_option_is_named(cases: dict[str, Case], extra: dict[str, Any], says: str) -> None:
    with pytest.raises(BackendError, match=says):
        load(case_of(cases, "act").folder.path, **extra)


def test_batching_can_be_switched_off(cases: dict[str, Case]) -> None:
    assert load(case_of(cases, "act").folder.path, max_batch=1).spec.max_batch == 1
