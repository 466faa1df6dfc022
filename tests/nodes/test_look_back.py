"""Policies that look back: a device's chunks equal those of LeRobot's own policy, fed tick by tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.core.batch import Float32
from inference_service.nodes.device_history import SLACK_NS, LookBack
from inference_service.nodes.diagnostics import stamp_message
from inference_service.nodes.engine_node import EngineNode, EngineParameters
from inference_service.nodes.policy_node import PolicyNode, PolicyParameters
from inference_service.transport import create_node
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import get_message
from tests.families import lerobot_pipelines
from tests.lerobot_models import IMAGE, cameras_of, make_model_folder, small_models
from tests.nodes.harness import ROBOT, Dispatching, wait_until

MS = 1_000_000
PERIOD_NS = 50 * MS
SEED = 5
NEEDS = {"diffusion": "diffusers"}


def test_the_moments_before_are_control_ticks() -> None:
    look_back = LookBack(2, PERIOD_NS)
    assert look_back.keep_ns == 2 * PERIOD_NS + SLACK_NS and LookBack(0, PERIOD_NS).keep_ns == 0
    start = 1_000 * MS

    def ticks(session: str, ms: float, count: int = 2, ahead: int = 0) -> list[float]:
        stamp = start + round(ms * MS)
        return [(s - start) / MS for s in look_back.stamps(session, stamp, stamp + ahead, count)]

    assert ticks("a", 0) == [], "there is nothing before the first"
    assert ticks("a", 50) == [0]
    assert ticks("a", 75) == [0, 25], "the first is repeated until ticks go back to it"
    assert ticks("a", 100) == [0, 50]
    assert ticks("a", 230) == [130, 180]
    assert ticks("a", 230, count=1) == [180] and ticks("a", 230, count=0) == []
    assert ticks("b", 240) == [] and ticks("b", 260) == [240], "a reset"
    assert ticks("b", 100) == [] and ticks("b", 150) == [100], "a clock that was set back"
    assert ticks("c", 300, ahead=5 * MS) == [] and ticks("c", 350) == [305], "a camera's clock that is ahead"


class TickedRobot:
    """Publishes what it sees at each tick, stamped by hand; the camera is 7 ms early, and loses picture 5."""

    def __init__(self, family: str) -> None:
        self.node = create_node("ticked_robot")
        self.start_ns = self.node.now_ns() - 2_000 * MS
        qos = QoS(depth=20)
        self._cameras = {
            name: self.node.create_publisher(f"/camera/{name}/image_raw", "sensor_msgs/msg/Image", qos)
            for name in cameras_of(family)
        }
        self._states = self.node.create_publisher("/joint_states", "sensor_msgs/msg/JointState", qos)
        self._seen: dict[str, Any] = {}
        self.sent: Counter[str] = Counter()
        self._rng = np.random.default_rng(0)

    def stamp_ns(self, tick: int) -> int:
        return self.start_ns + tick * PERIOD_NS

    def tick(self, number: int) -> dict[str, Any]:
        """What a control loop would see at this tick."""
        header, stamp_ns = get_message("std_msgs/msg/Header"), self.stamp_ns(number)
        for name, publisher in self._cameras.items():
            if number == 5:
                continue
            data = self._rng.integers(0, 256, (*IMAGE, 3), np.uint8)
            self._seen[f"observation.images.{name}"] = data
            self.sent[publisher.topic] += 1
            publisher.publish(
                get_message("sensor_msgs/msg/Image")(
                    header=header(stamp=stamp_message(stamp_ns - 7 * MS), frame_id=name),
                    height=IMAGE[0],
                    width=IMAGE[1],
                    encoding="rgb8",
                    is_bigendian=0,
                    step=IMAGE[1] * 3,
                    data=data.reshape(-1),
                )
            )
        joints = self._rng.uniform(-1, 1, 6)
        self._seen["observation.state"] = joints.astype(np.float32)
        self.sent[self._states.topic] += 1
        self._states.publish(
            get_message("sensor_msgs/msg/JointState")(
                header=header(stamp=stamp_message(stamp_ns), frame_id=""),
                name=["1", "2", "3", "4", "5", "6"],
                position=joints,
                velocity=np.empty(0),
                effort=np.empty(0),
            )
        )
        return dict(self._seen)


class TheirLoop:
    """LeRobot's policy and processors, asked at every tick; its chunk is taken where a device would ask for one."""

    def __init__(self, path: Path) -> None:
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class

        config = PreTrainedConfig.from_pretrained(path)
        self._policy = get_policy_class(config.type).from_pretrained(path, config=config).eval()
        self._before, self._after = lerobot_pipelines(path)

    def reset(self) -> None:
        self._policy.reset()

    def tick(self, observation: dict[str, Any], wanted: bool) -> Any:
        """The chunk in robot units, (chunk, 6), where it is ``wanted``."""
        import torch
        from lerobot.policies.utils import prepare_observation_for_inference

        batch = self._before(prepare_observation_for_inference(dict(observation), torch.device("cpu")))
        if wanted:
            self._policy._queues["action"].clear()
            torch.manual_seed(SEED)
        first = self._policy.select_action(batch)
        chunk = torch.stack([first, *self._policy._queues["action"]], dim=1)
        return self._after(chunk)[0].numpy() if wanted else None


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lerobot")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with small_models():
        yield
    torch.set_num_threads(threads)


def robot_file(path: Path, policy: Path, encoding: str) -> Path:
    """The demo robot with the small policies' cameras."""
    text = ROBOT.read_text(encoding="utf-8").replace("policies/so101_act_demo", str(policy))
    for before, after in (
        ("      policy_type: act\n", f"      seed: {SEED}\n"),
        ("resize: [480, 640]", "resize: [40, 40]"),
        ("reliability: best_effort", "reliability: reliable"),
        ("{default: u8}", f"{{default: {encoding}}}"),
        ("wrist", "left_wrist"),
        ("tol_ms: 500 ", "tol_ms: 600000 "),  # the ticks are played at the pace of LeRobot's policy, not at theirs
        ("tol_ms: 500\n", "tol_ms: 600000\n"),
    ):
        assert before in text
        text = text.replace(before, after)
    file = path / "arm.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def open_stack(opened: ExitStack, tmp_path: Path, policy: Path, mode: str, encoding: str, engine: bool) -> PolicyNode:
    if engine:
        node = create_node("pure_inference")
        opened.callback(node.close)
        server = EngineNode(node, EngineParameters(policy_path=str(policy), device="cpu", threads=1))
        opened.callback(server.close)
    node = create_node("act_inference_node")
    opened.callback(node.close)
    device = PolicyNode(
        node,
        PolicyParameters(
            checkpoint=str(policy),
            robot_config_path=str(robot_file(tmp_path, policy, encoding)),
            execution_mode=mode,
            device="cpu" if mode == "monolithic" else "auto",
            threads=1,
            request_timeout=20.0,
        ),
    )
    opened.callback(device.close)
    return device


@pytest.mark.parametrize(("mode", "encoding"), [("monolithic", "u8"), ("distributed", "u8"), ("distributed", "f32")])
@pytest.mark.parametrize("family", ["vqbet", "diffusion"])
def test_chunks_equal_lerobots_own_fed_tick_by_tick(
    tmp_path: Path, domain_id: int, small: None, family: str, mode: str, encoding: str
) -> None:
    """Asked at some ticks alone, over a lost picture, and after a reset."""
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    policy = make_model_folder(tmp_path / "policy", family)
    theirs = TheirLoop(policy)
    with ExitStack() as opened:
        dispatching, robot = Dispatching(), TickedRobot(family)
        opened.callback(dispatching.node.close)
        opened.callback(robot.node.close)
        device = open_stack(opened, tmp_path, policy, mode, encoding, engine=mode == "distributed")
        assert wait_until(lambda: device._runner.problem() is None, 30.0), device._runner.problem()
        assert wait_until(lambda: all(p.matched for p in (*robot._cameras.values(), robot._states)))
        episode = "0123abcd"
        for tick in range(11):
            if tick == 8:
                episode = "0123abcd.1"
                theirs.reset()
            wanted = tick in (0, 1, 4, 6, 8, 10)
            expected = theirs.tick(robot.tick(tick), wanted)
            assert wait_until(lambda: all(s.received == robot.sent[s.spec.topic] for s in device._sampler.streams))
            if not wanted:
                continue
            result = dispatching.infer(stamp_ns=robot.stamp_ns(tick), inference_id=f"{episode}-{tick}")[1]
            assert result.success, result.message
            assert chunk_of(result).tobytes() == expected.tobytes(), f"tick {tick}"


def chunk_of(result: Any) -> Float32:
    variant = result.action_chunk.variants[0]
    shape = [axis.size for axis in variant.float_32_array.layout.dim]
    return np.asarray(variant.float_32_array.data, np.float32).reshape(shape)
