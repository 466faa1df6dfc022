"""Stand-ins on the real wire: a robot that publishes what it is told, an engine that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.diagnostics import stamp_message
from inference_service.nodes.engine_client import CARD_TOPIC, VARIANTS
from inference_service.transport import create_node
from inference_service.transport.protocol import ClientGoal, GoalStatus, QoS
from inference_service.wire.envelope import (
    EngineCard,
    EngineState,
    Reply,
    Request,
    card_to_status,
    decode_request,
    encode_reply,
)
from inference_service.wire.interfaces import get_message

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "policies" / "so101_act_demo"
ROBOT = ROOT / "robot_config" / "robots" / "so101_sim.yaml"
CAMERAS = ("top", "wrist")
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
    """Whether ``condition`` became true before the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


class StandInRobot:
    """Publishes two cameras and the joint states at 20 Hz; ``muted``, ``frozen`` and ``joints`` are its faults."""

    def __init__(self) -> None:
        self.node = create_node("stand_in_robot")
        self.muted: set[str] = set()
        self.frozen: set[str] = set()
        self.joints = np.array([0.0, -0.6, 0.9, 0.6, 0.0, 0.6])
        self.names = ["1", "2", "3", "4", "5", "6"]
        self.size = (480, 640)
        self._stamps: dict[str, Any] = {}
        qos = QoS(depth=2, reliability="best_effort")
        image = "sensor_msgs/msg/Image"
        self._cameras = {c: self.node.create_publisher(f"/camera/{c}/image_raw", image, qos) for c in CAMERAS}
        self._states = self.node.create_publisher("/joint_states", "sensor_msgs/msg/JointState", qos)
        self.node.create_timer(0.05, self.publish, group="robot")

    def publish(self) -> None:
        stamp = stamp_message(self.node.now_ns())
        header = get_message("std_msgs/msg/Header")
        for name, publisher in self._cameras.items():
            if name not in self.muted:
                own = self._stamps.setdefault(name, stamp) if name in self.frozen else stamp
                publisher.publish(self._picture(header(stamp=own, frame_id=name)))
        if "joints" not in self.muted:
            state = get_message("sensor_msgs/msg/JointState")
            message = state(
                header=header(stamp=stamp, frame_id=""),
                name=list(self.names),
                position=self.joints[: len(self.names)].astype(np.float64),
                velocity=np.empty(0),
                effort=np.empty(0),
            )
            self._states.publish(message)

    def _picture(self, header: Any) -> Any:
        height, width = self.size
        data = (np.arange(height * width * 3, dtype=np.uint32) % 251).astype(np.uint8)
        return get_message("sensor_msgs/msg/Image")(
            header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * 3, data=data
        )


class StandInEngine:
    """Shows a card (unless ``card`` is None; never when ``plain``) and hands each request to ``answer``."""

    def __init__(self, answer: Callable[[StandInEngine, Request], None], *, plain: bool = False, **card: Any) -> None:
        self.node = create_node("stand_in_engine")
        config = PolicyFolder.load(POLICY)
        self.card: EngineCard | None = replace(
            EngineCard(
                engine_id="stand-in",
                state=EngineState.READY,
                policy_type="act",
                backend_type="stand-in",
                device="cpu",
                chunk_size=50,
                action_dim=6,
                input_features={k: f.shape for k, f in config.config.input_features.items()},
                fingerprint=config.fingerprint,
            ),
            **card,
        )
        self.requests: list[Request] = []
        self.answer = answer
        self._replies = self.node.create_publisher("/inference/action", VARIANTS)
        if not plain:
            self._cards = self.node.create_publisher(CARD_TOPIC, STATUS, QoS(depth=1, durability="transient_local"))
            self.node.create_timer(0.2, self.show_card, group="card")
        self.node.create_subscription("/preprocessed/batch", VARIANTS, self._on_request, group="requests")

    def show_card(self) -> None:
        if self.card is not None:
            self._cards.publish(card_to_status(self.card))

    def _on_request(self, message: Any) -> None:
        request = decode_request(message)
        self.requests.append(request)
        self.answer(self, request)

    def reply(self, request: Request, action: float | None = 0.0, **changes: Any) -> None:
        reply = Reply(
            request.request_id,
            None if action is None else np.full((50, 6), action, np.float32),
            device_id=request.device_id,
            session=request.session,
            engine_id="stand-in",
        )
        self._replies.publish(encode_reply(replace(reply, **changes), extended=request.extended))


class Dispatching:
    """Sends goals as the dispatcher would, and waits for each."""

    def __init__(self) -> None:
        self.node = create_node("stand_in_dispatcher")
        self._client = self.node.create_action_client(
            "/act_inference_node/DispatchInfer", "ibrobot_msgs/action/DispatchInfer"
        )

    def infer(
        self, timeout_s: float = 15.0, stamp_ns: int | None = None, inference_id: str = "test"
    ) -> tuple[GoalStatus, Any]:
        """Status and result of one goal; fails the test when there is no answer in time."""
        done = threading.Event()
        got: list[tuple[GoalStatus, Any]] = []

        def on_result(status: GoalStatus, result: Any) -> None:
            got.append((status, result))
            done.set()

        self.send(on_result, inference_id, stamp_ns)
        assert done.wait(timeout_s), "the goal was never answered"
        return got[0]

    def send(
        self, on_result: Callable[[GoalStatus, Any], None], inference_id: str, stamp_ns: int | None = None
    ) -> ClientGoal:
        """Send one goal and return at once."""
        assert wait_until(lambda: self._client.server_is_ready), "no action server"
        goal = get_message("ibrobot_msgs/action/DispatchInfer_Goal")(
            obs_timestamp=stamp_message(self.node.now_ns() if stamp_ns is None else stamp_ns),
            prompt="",
            inference_id=inference_id,
        )
        return self._client.send_goal(goal, on_result)

    def canceling(self, goal: ClientGoal) -> Callable[[], bool]:
        """Whether the server has accepted, by then, to cancel this goal: as its status topic says."""
        seen: list[Any] = []
        status = "/act_inference_node/DispatchInfer/_action/status"
        latched = QoS(depth=1, durability="transient_local")
        self.node.create_subscription(status, "action_msgs/msg/GoalStatusArray", seen.append, latched, group="status")

        def so_now() -> bool:
            told = [(bytes(s.goal_info.goal_id.uuid), s.status) for message in seen for s in message.status_list]
            return (goal.goal_id, GoalStatus.CANCELING) in told

        return so_now

    def infer_until_ok(self, timeout_s: float = 20.0) -> Any:
        """The first successful result; goals until then may fail (streams and engine are coming up)."""
        deadline = time.monotonic() + timeout_s
        while True:
            _, result = self.infer()
            if result.success or time.monotonic() > deadline:
                assert result.success, result.message
                return result
            time.sleep(0.1)
