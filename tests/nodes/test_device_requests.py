"""What a configured device puts on the real wire: encodings, session, seed, the rest of the chunk before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import AffineImage
from inference_service.core.errors import EngineFault, EngineUnavailable, InferenceServiceError
from inference_service.core.policy import NO_CONTEXT, InferenceContext, PolicySpec
from inference_service.core.policy_folder import PolicyFolder
from inference_service.core.resize import resize_bilinear
from inference_service.nodes import policy_runner_local
from inference_service.nodes.device_setup import DeviceSetup
from inference_service.nodes.policy_node import PolicyNode, PolicyParameters
from inference_service.nodes.policy_runner import RemoteRunner
from inference_service.transport import create_node
from robot_config.schema import ControlMode, InferenceConfig, ModelConfig, RtcConfig
from tests.nodes.harness import POLICY, ROBOT, Dispatching, StandInEngine, StandInRobot, wait_until
from tests.policies import make_observation, make_plain_folder

TOP, WRIST = "observation.images.top", "observation.images.wrist"
PERIOD_NS = 50_000_000


@dataclass(frozen=True)
class Wire:
    cloud_inference_topic: str = "/preprocessed/batch"
    cloud_result_topic: str = "/inference/action"
    request_timeout: float = 10.0
    shared_memory: str = ""


Make = Callable[..., Any]


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


@pytest.fixture
def dispatching(opened: list[Any]) -> Dispatching:
    dispatching = Dispatching()
    robot = StandInRobot()
    opened.extend([dispatching.node, robot.node])
    return dispatching


@pytest.fixture
def engine(opened: list[Any]) -> Make:
    def make(answer: Any = None, **card: Any) -> StandInEngine:
        engine = StandInEngine(answer or (lambda engine, request: engine.reply(request)), **card)
        opened.append(engine.node)
        return engine

    return make


@pytest.fixture
def device(opened: list[Any], tmp_path: Path) -> Make:
    """A device node of the demo robot, with more in its model's and its inference section."""

    def make(model: str = "", inference: str = "") -> PolicyNode:
        text = ROBOT.read_text(encoding="utf-8").replace("policies/so101_act_demo", str(POLICY))
        text = text.replace("      device: auto ", f"{model}      device: auto ", 1)
        if "encodings" in inference:
            text = text.replace("        encodings: {default: u8}\n", "")
        text = text.replace("        request_timeout: 5.0", f"{inference}        request_timeout: 5.0", 1)
        path = tmp_path / "arm.yaml"
        path.write_text(text, encoding="utf-8")
        node = create_node("act_inference_node")
        opened.append(node)
        parameters = PolicyParameters(
            checkpoint=str(POLICY), robot_config_path=str(path), execution_mode="distributed", request_timeout=5.0
        )
        opened.append(PolicyNode(node, parameters))
        return opened[-1]

    return make


def ask(dispatching: Dispatching, number: int, episode: str = "0123abcd", **goal: Any) -> None:
    results: list[Any] = []

    def done() -> bool:
        results.append(dispatching.infer(inference_id=f"{episode}-{number}", **goal)[1])
        return bool(results[-1].success)

    assert wait_until(done, 20.0), results[-1].message


def test_a_device_is_known_by_one_name_over_restarts(engine: Make, device: Make, dispatching: Dispatching) -> None:
    server = engine()
    first = device()
    ask(dispatching, 1)
    assert server.requests[-1].device_id == first._status().values["device_id"]
    first.close()
    second = device(inference="        device_id: left-arm\n")
    seen = len(server.requests)
    ask(dispatching, 2)
    assert server.requests[-1].device_id == second._status().values["device_id"] == "left-arm"
    assert len(server.requests) > seen and server.requests[0].session != server.requests[-1].session


def test_each_camera_travels_as_the_robot_file_says(engine: Make, device: Make, dispatching: Dispatching) -> None:
    server = engine()
    device(inference=f"        encodings: {{{TOP}: 'jpeg:90', default: f16}}\n")
    ask(dispatching, 1)
    batch = server.requests[-1].batch
    assert isinstance(batch[TOP], AffineImage), "a jpeg stays bytes with their affine map"
    assert isinstance(batch[WRIST], np.ndarray), "halves are the model's floats"
    np.testing.assert_array_equal(batch[WRIST], batch[WRIST].astype(np.float16))


def test_an_engine_that_takes_exact_pictures_alone_gets_those(
    engine: Make, device: Make, dispatching: Dispatching
) -> None:
    server = engine(codecs=("f32", "u8"))
    device(inference="        encodings: {default: 'jpeg:50'}\n")
    ask(dispatching, 1)
    pixels = server.requests[-1].batch[TOP].pixels
    sent = (np.arange(480 * 640 * 3, dtype=np.uint32) % 251).astype(np.uint8).reshape(480, 640, 3)
    np.testing.assert_array_equal(pixels, resize_bilinear(sent, 96, 128))


def test_the_rest_of_the_chunk_goes_to_an_engine_that_takes_it(
    engine: Make, device: Make, dispatching: Dispatching
) -> None:
    server = engine(supports_rtc=True)
    device(model="      rtc: {enabled: true, execution_horizon: 12}\n      seed: 7\n")
    ask(dispatching, 1)
    stamp_ns = dispatching.node.now_ns()
    ask(dispatching, 2, stamp_ns=stamp_ns)
    ask(dispatching, 3, stamp_ns=stamp_ns + 4 * PERIOD_NS)
    second, third = server.requests[-2:]
    assert server.requests[0].left_over is None
    left = third.left_over
    assert left is not None and left.actions.shape == (46, 6)
    assert left.execution_horizon == 12 and left.inference_delay >= 1
    assert {r.seed for r in server.requests} == {7}
    assert second.session == third.session
    ask(dispatching, 4, episode="0123abcd.1")
    assert server.requests[-1].left_over is None and server.requests[-1].session != third.session


def test_an_engine_that_does_not_take_it_is_told_nothing(engine: Make, device: Make, dispatching: Dispatching) -> None:
    server = engine(supports_rtc=False)
    device(model="      rtc: {enabled: true}\n")
    ask(dispatching, 1)
    ask(dispatching, 2)
    assert all(r.left_over is None and r.seed is None for r in server.requests)


def test_another_rate_than_the_policys_is_refused_before_the_first_action(
    engine: Make, device: Make, dispatching: Dispatching
) -> None:
    server = engine(fps=30.0)
    node = device()
    messages: list[str] = []

    def refused() -> bool:
        messages.append(dispatching.infer()[1].message)
        return "actions a second" in messages[-1]

    assert wait_until(refused), messages[-1]
    assert messages[-1].startswith("policy_mismatch: ") and "control_frequency: write 30" in messages[-1]
    assert "actions a second" in node._status().message and server.requests == []


@pytest.mark.parametrize(
    ("wanted", "offered", "shape"),
    [
        (True, (64, 64), (1, 3, 64, 64)),
        (False, (64, 64), (1, 3, 96, 128)),
        (True, None, (1, 3, 96, 128)),
        (True, (32, 32), (1, 3, 96, 128)),
    ],
    ids=["both want it", "the device does not", "the engine does not", "the engine means another size"],
)
def test_pictures_are_shrunk_early_where_both_sides_want_it(
    opened: list[Any], tmp_path: Path, wanted: bool, offered: tuple[int, int] | None, shape: tuple[int, ...]
) -> None:
    norm = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    folder = PolicyFolder.load(make_plain_folder(tmp_path, type="pi0", image_resolution=[64, 64], norm=norm))
    node = create_node("act_inference_node")
    opened.append(node)
    mode = ControlMode(inference=InferenceConfig(early_resize=wanted))
    setup = replace(DeviceSetup.without_robot(folder), mode=mode)
    runner = RemoteRunner(node, setup, Wire(), lambda: None)
    config = folder.config
    engine = StandInEngine(
        lambda engine, request: engine.reply(request, action=None, status="internal", message="enough"),
        image_size=offered,
        fingerprint=folder.fingerprint,
        policy_type="pi0",
        chunk_size=config.chunk_size,
        action_dim=config.action_dim,
        input_features={name: feature.shape for name, feature in config.input_features.items()},
    )
    opened.append(engine.node)
    assert wait_until(lambda: runner.problem() is None), runner.problem()
    with pytest.raises(InferenceServiceError, match="enough"):
        runner.run(make_observation(), 0)
    assert engine.requests[-1].batch[TOP].shape == shape


class LookingBack:
    """A device whose policy looks back on one observation, and an engine that has ``card`` (None: a plain one)."""

    def __init__(self, opened: list[Any], path: Path, card: dict[str, Any] | None) -> None:
        folder = PolicyFolder.load(make_plain_folder(path, n_obs_steps=2, chunk_size=50))
        node = create_node("act_inference_node")
        opened.append(node)
        self.runner = RemoteRunner(node, DeviceSetup.without_robot(folder), Wire(), lambda: None)
        config = folder.config
        self.engine = StandInEngine(
            lambda engine, request: engine.reply(request),
            plain=card is None,
            fingerprint=folder.fingerprint,
            input_features={name: feature.shape for name, feature in config.input_features.items()},
            **(card or {}),
        )
        opened.append(self.engine.node)
        assert wait_until(lambda: self.runner.problem() is None), self.runner.problem()

    def ask(self, earlier: int) -> Any:
        """What the engine was told of ``earlier`` observations, besides the latest one."""
        observations = [make_observation(seed=number) for number in range(earlier + 1)]
        self.runner.run(observations[-1], 10**9, observations[:-1])
        return self.engine.requests[-1].earlier


def test_observations_that_a_policy_looks_back_on_go_with_the_request(
    opened: list[Any], tmp_path: Path, domain_id: int
) -> None:
    device = LookingBack(opened, tmp_path, {"n_obs_steps": 2, "earlier_observations": 1})
    assert device.runner.looks_back == 1
    assert device.ask(0) == (), "the session has just begun"
    (frame,) = device.ask(1)
    assert list(frame) == ["observation.state", TOP, WRIST]
    np.testing.assert_array_equal(frame[TOP].pixels, make_observation(seed=0)[TOP])


@pytest.mark.parametrize(
    ("card", "why"),
    [({"n_obs_steps": 2, "version": "0.0.9"}, "version 0.0.9"), (None, "the plain form")],
    ids=["an engine of an earlier version", "a plain engine"],
)
def test_an_engine_that_takes_none_gets_the_latest_alone_which_is_said_once(
    opened: list[Any],
    tmp_path: Path,
    domain_id: int,
    caplog: pytest.LogCaptureFixture,
    card: dict[str, Any] | None,
    why: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        device = LookingBack(opened, tmp_path, card)
        assert [device.runner.looks_back for _ in range(2)] == [0, 0]
        assert device.ask(1) is None
    said = [r.getMessage() for r in caplog.records if "looks back on 2 observations" in r.getMessage()]
    assert len(said) == 1 and why in said[0]


class Recording:
    """A policy that takes the rest of a chunk, and remembers what it was told."""

    def __init__(self, folder: PolicyFolder) -> None:
        config = folder.config
        self.spec = PolicySpec(
            config.type,
            "recording",
            "cpu",
            config.chunk_size,
            config.action_dim,
            config.input_features,
            n_obs_steps=2,
            earlier_observations=1,
            supports_rtc=True,
        )
        self.contexts: list[InferenceContext] = []
        self.forgotten: list[str] = []

    def predict_action_chunk(self, batch: Any, context: InferenceContext = NO_CONTEXT) -> np.ndarray:
        self.contexts.append(context)
        return np.zeros((self.spec.chunk_size, self.spec.action_dim), np.float32)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def close(self) -> None:
        pass


def test_a_policy_in_this_process_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PolicyFolder.load(POLICY)
    policy = Recording(folder)
    monkeypatch.setattr(policy_runner_local, "load_policy", lambda *_, **__: policy)
    model = ModelConfig(path=str(POLICY), seed=5, rtc=RtcConfig(enabled=True, execution_horizon=9))
    setup = replace(DeviceSetup.without_robot(folder), model=model)
    runner = policy_runner_local.LocalRunner(setup, "onnx", 1, logging.getLogger("device"), lambda: None)
    assert wait_until(lambda: runner.problem() is None), runner.problem()
    policy.contexts.clear()
    for number, stamp_ns in enumerate((10**9, 10**9 + 3 * PERIOD_NS), 1):
        runner.begin(f"0123abcd-{number}")
        runner.run(make_observation(), stamp_ns, [make_observation(seed=7)] * (number - 1))
    runner.begin("0123abcd.1-3")
    runner.run(make_observation(), 10**9 + 4 * PERIOD_NS)
    first, second, after_reset = policy.contexts
    assert first.left_over is None and first.seed == 5 and first.stamp_ns == 10**9
    assert second.left_over is not None and len(second.left_over.actions) == 47
    assert second.left_over.execution_horizon == 9 and second.session == first.session
    assert first.earlier == () and after_reset.earlier == ()
    assert second.earlier is not None and list(second.earlier[0]) == list(folder.config.input_features)
    assert after_reset.left_over is None and after_reset.session != first.session
    assert first.session in policy.forgotten
    runner.close()


def test_a_runtime_that_breaks_in_this_process_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: the runtime is gone while the robot moves. Expected: told and refused at once, back by itself."""
    folder = PolicyFolder.load(POLICY)
    broken, whole = Recording(folder), Recording(folder)
    loaded = iter([broken, whole])
    monkeypatch.setattr(policy_runner_local, "load_policy", lambda *_, **__: next(loaded))
    changes: list[float] = []
    setup, note = DeviceSetup.without_robot(folder), lambda: changes.append(time.monotonic())
    runner = policy_runner_local.LocalRunner(setup, "onnx", 1, logging.getLogger("device"), note)
    assert wait_until(lambda: runner.problem() is None), runner.problem()

    def gone(batch: Any, context: InferenceContext = NO_CONTEXT) -> np.ndarray:
        raise EngineFault("npu 0 fell off the bus")

    monkeypatch.setattr(broken, "predict_action_chunk", gone)
    broken_at = time.monotonic()
    with pytest.raises(EngineFault):
        runner.run(make_observation(), 10**9)
    assert any(at >= broken_at for at in changes), "nobody was told"
    assert runner.problem() == "engine is FAULT npu 0 fell off the bus"
    with pytest.raises(EngineUnavailable, match="fell off"):
        runner.run(make_observation(), 10**9)
    assert wait_until(lambda: runner.problem() is None), runner.problem()
    runner.run(make_observation(), 10**9)
    assert len(whole.contexts) == 2 and runner.values()["engine_faults"] == "1"
    runner.close()
