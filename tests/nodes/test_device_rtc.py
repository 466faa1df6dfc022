"""What a device carries from request to request: its session, and what is left of the chunk that is executed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.postprocessor import TensorPostprocessor
from inference_service.core.preprocessor import TensorPreprocessor
from inference_service.core.reanchor import Reanchor
from inference_service.dispatch.requests import Backoff, RequestTracker
from inference_service.nodes.device_rtc import Continuity, episode_of
from robot_config.schema import RtcConfig
from tests.families import lerobot_pipelines, make_family_folder
from tests.nodes.harness import POLICY

MS = 1_000_000
PERIOD = 50 * MS
CHUNK = np.arange(60, dtype=np.float32).reshape(10, 6)
FIRST = "0123abcd-1"


def continuity(enabled: bool = True, seed: int | None = None, reanchor: Any = None) -> Continuity:
    rtc = RtcConfig(enabled=enabled, execution_horizon=7)
    made = Continuity(rtc, PERIOD, seed, reanchor, logging.getLogger("act_inference_node"))
    made.begin(FIRST)
    return made


def executing(round_trip_ms: float = 10.0) -> Continuity:
    """A robot that executes a chunk whose observation was taken at 1 s."""
    made = continuity()
    made.remember(made.session, 1000 * MS, CHUNK, CHUNK, round_trip_ms)
    return made


def left_over(made: Continuity, stamp_ms: float, supports_rtc: bool = True) -> Any:
    return made.context(int(stamp_ms * MS), {}, supports_rtc).left_over


def test_the_first_request_has_nothing_left_over() -> None:
    context = continuity(seed=3).context(0, {}, True)
    assert context.left_over is None and context.seed == 3 and context.session


def test_what_is_left_begins_at_the_new_observation() -> None:
    left = left_over(executing(), 1200)
    np.testing.assert_array_equal(left.actions, CHUNK[4:])
    assert left.execution_horizon == 7


@pytest.mark.parametrize(("round_trip_ms", "steps"), [(10.0, 1), (50.0, 1), (50.1, 2), (149.0, 3)])
def test_the_delay_is_the_slowest_recent_round_trip_in_steps(round_trip_ms: float, steps: int) -> None:
    made = executing(round_trip_ms)
    made.remember(made.session, 1000 * MS, CHUNK, CHUNK, 5.0)
    assert left_over(made, 1100).inference_delay == steps


def test_a_slow_request_is_forgotten_in_time() -> None:
    made = executing(500.0)
    for _ in range(10):
        made.remember(made.session, 1000 * MS, CHUNK, CHUNK, 20.0)
    assert left_over(made, 1100).inference_delay == 1


@pytest.mark.parametrize(
    "stamp_ms", [1500, 9000, 900], ids=["played to its end", "after a gap", "the clock jumped back"]
)
def test_nothing_is_left_after_the_chunk_and_before_it(stamp_ms: float) -> None:
    assert left_over(executing(), stamp_ms) is None


def test_a_reset_of_the_dispatcher_begins_a_new_session() -> None:
    made = executing()
    before = made.session
    assert made.begin("0123abcd-2") is None
    assert made.begin("0123abcd.1-3") == before
    assert made.session != before
    assert left_over(made, 1100) is None
    made.remember(before, 1000 * MS, CHUNK, CHUNK, 10.0)
    assert left_over(made, 1100) is None, "an answer of the session before"


def test_another_dispatcher_begins_a_new_session_and_a_strange_id_none() -> None:
    made = continuity()
    assert made.begin("89abcdef-1") is not None
    assert episode_of("89abcdef-12") == episode_of("89abcdef-13") == "89abcdef"
    assert episode_of("5b0ba47c-9f5f-4d21-8b0e-1f2b0a6a1c1d") is None
    plain = Continuity(RtcConfig(), PERIOD, None, None, logging.getLogger())
    assert [plain.begin("one"), plain.begin("two")] == [None, None]


def test_a_policy_that_takes_none_gets_none_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    made = executing()
    assert left_over(made, 1100, supports_rtc=False) is None
    assert left_over(made, 1100, supports_rtc=False) is None
    assert len(caplog.records) == 1


def test_without_rtc_only_the_session_travels() -> None:
    made = continuity(enabled=False)
    made.remember(made.session, 1000 * MS, CHUNK, CHUNK, 10.0)
    assert left_over(made, 1100) is None


def test_an_absolute_policy_needs_no_anchor() -> None:
    assert Reanchor.needed(PolicyFolder.load(POLICY)) is None


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_left_over_relative_actions_are_made_relative_to_the_new_state_as_lerobot_does(
    tmp_path: Path, family: str
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lerobot")
    from lerobot.policies.rtc import reanchor_relative_rtc_prefix
    from lerobot.processor import NormalizerProcessorStep, RelativeActionsProcessorStep

    path = make_family_folder(tmp_path / family, family, use_relative_actions=True)
    folder = PolicyFolder.load(path)
    reanchor = Reanchor.needed(folder)
    assert reanchor is not None
    rng = np.random.default_rng(0)
    shape = folder.config.input_features["observation.state"].shape
    before, now = (observation(folder, rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    pre, post = TensorPreprocessor(folder), TensorPostprocessor(folder)
    chunk = rng.normal(size=(10, folder.config.action_dim)).astype(np.float32)
    absolute = post(chunk, pre(before).context)
    ours = reanchor(absolute[3:], pre(now).context)
    steps = lerobot_pipelines(path)[0].steps
    theirs = reanchor_relative_rtc_prefix(
        torch.from_numpy(absolute[3:].copy()),
        torch.from_numpy(now["observation.state"]),
        next(s for s in steps if isinstance(s, RelativeActionsProcessorStep)),
        next(s for s in steps if isinstance(s, NormalizerProcessorStep)),
        "cpu",
    )
    np.testing.assert_array_equal(ours, theirs.numpy())
    again = reanchor(absolute, pre(before).context)
    assert again is not None
    # The last joint's statistics have no spread: rounding is blown up there.
    np.testing.assert_allclose(again[:, :-1], chunk[:, :-1], atol=1e-4, err_msg="its own state: the chunk again")


def observation(folder: PolicyFolder, state: np.ndarray) -> dict[str, Any]:
    shapes = {n: f.shape for n, f in folder.config.input_features.items() if len(f.shape) == 3}
    pictures = {name: np.zeros((*shape[1:], 3), np.uint8) for name, shape in shapes.items()}
    return {**pictures, "observation.state": state, "task": "reach"}


def test_a_chunk_without_a_state_to_hold_on_to_is_not_left_over() -> None:
    made = continuity(reanchor=lambda absolute, context: None)
    made.remember(made.session, 1000 * MS, CHUNK, CHUNK, 10.0)
    assert left_over(made, 1100) is None


def test_the_dispatchers_reset_is_what_the_device_understands() -> None:
    requests = RequestTracker("0123abcd", Backoff(1, 1))
    ids = [requests.start(0, 0, 1, 0).request_id]
    requests.close(answered=True)
    requests.new_episode()
    ids.append(requests.start(0, 0, 1, 0).request_id)
    made = Continuity(RtcConfig(), PERIOD, None, None, logging.getLogger())
    assert made.begin(ids[0]) is None and made.begin(ids[1]) is not None
