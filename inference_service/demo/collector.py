"""The observer: a node that only listens, and turns what it hears into events.

An event's time is that of its sending, which the transport tells: everything runs on this machine, and so on one system
clock. When the observer came to take it says nothing about the robot."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from inference_service.core.errors import InvalidObservation
from inference_service.demo.events import Card, Chunk, Command, Event, Health, Joints, QueueSize
from inference_service.demo.recording import Recording
from inference_service.nodes.decoding import decode_compressed_image, decode_image
from inference_service.transport.protocol import Message, Node, QoS, Subscription
from inference_service.wire.variants import from_variants
from robot_config import ObservationSpec, RobotConfig

JOINT_STATE = "sensor_msgs/msg/JointState"
IMAGES = {"sensor_msgs/msg/Image": decode_image, "sensor_msgs/msg/CompressedImage": decode_compressed_image}
COMMANDS = ("std_msgs/msg/Float64MultiArray", "std_msgs/msg/Float32MultiArray")
GROUP = "observer"
DEEP = QoS(depth=500)
JOINTS = QoS(depth=500, reliability="best_effort")
"""Deep: what a starved observer has not taken must not give way to newer ones."""
Handler = Callable[[Message, float], None]

_logger = logging.getLogger(__name__)


def sent_at(sent_ns: int) -> float:
    """A sender's system time (ns) on this process's monotonic clock, seconds; now where it is 0, not known."""
    now, late_ns = time.monotonic(), time.time_ns() - sent_ns
    return now - max(0, late_ns) / 1e9 if sent_ns > 0 else now


class Collector:
    """Subscribes to everything but the cameras, whose pictures cost time: those only in :meth:`take_frames`."""

    def __init__(self, node: Node, robot: RobotConfig, policy_type: str, recording: Recording) -> None:
        self._node = node
        self._recording = recording
        self._robot = robot
        self._alone: dict[str, Subscription] = {}
        self._subscribe("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", self._on_diagnostics)
        chunks, ticks = f"/actions/{policy_type}", "/action_dispatcher/queue_size"
        self._alone[chunks] = self._subscribe(chunks, "ibrobot_msgs/msg/VariantsList", self._on_chunk)
        self._alone[ticks] = self._subscribe(ticks, "std_msgs/msg/Int32", self._on_queue)
        card_qos = QoS(depth=1, durability="transient_local")
        self._subscribe("/inference/engine", "diagnostic_msgs/msg/DiagnosticStatus", self._on_card, card_qos)
        for topic in dict.fromkeys(o.topic for o in robot.contract.observations if o.type == JOINT_STATE):
            self._subscribe(topic, JOINT_STATE, self._on_joints, JOINTS)
        for action in robot.contract.actions:
            if action.publish.type in COMMANDS:
                self._follow_commands(action.publish.topic, action.publish.type)

    def _subscribe(self, topic: str, kind: str, callback: Handler, qos: QoS = DEEP) -> Subscription:
        """``callback`` is given the message and when it was sent."""
        made: list[Subscription] = []

        def on_message(message: Message) -> None:
            callback(message, sent_at(made[0].sent_ns if made else 0))

        made.append(self._node.create_subscription(topic, kind, on_message, qos, group=GROUP))
        return made[0]

    def _follow_commands(self, topic: str, kind: str) -> None:
        def on_command(message: Message, t: float) -> None:
            values = tuple(float(v) for v in np.ravel(message.data))
            self._see(Command(t, topic, values))

        self._subscribe(topic, kind, on_command)

    def _see(self, event: Event) -> None:
        self._recording.see(event)

    def _on_diagnostics(self, message: Message, t: float) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self._see(Health(t, status.name, int(status.level), status.message, values))

    def _on_chunk(self, message: Message, t: float) -> None:
        items = from_variants(message)
        stages = dict(zip(items.get("timing.stages", ()), map(float, items.get("timing.ms", ())), strict=False))
        request_id = next(iter(items.get("action.request_id", ())), "")
        self._see(Chunk(t, request_id, stages))

    def _on_queue(self, message: Message, t: float) -> None:
        self._see(QueueSize(t, int(message.data)))

    def _on_joints(self, message: Message, t: float) -> None:
        self._see(Joints(t, dict(zip(message.name, map(float, message.position), strict=False))))

    def _on_card(self, message: Message, t: float) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self._see(Card(t, {"state": message.message, **values}))

    def crowded(self) -> str | None:
        """A topic with more than the one publisher that a run starts, or ``None``."""
        return next((topic for topic, heard in self._alone.items() if heard.matched > 1), None)

    def take_frames(self, timeout_s: float) -> Sequence[str]:
        """One picture of every camera into the recording; the cameras of which none came in ``timeout_s``."""
        cameras = {o.topic: o for o in self._robot.contract.observations if o.type in IMAGES}
        missing = {topic: threading.Event() for topic in cameras}
        subscriptions = [self._one_frame(spec, missing[topic]) for topic, spec in cameras.items()]
        deadline = time.monotonic() + timeout_s
        absent = [t for t, came in missing.items() if not came.wait(max(0.0, deadline - time.monotonic()))]
        for close in subscriptions:
            close()
        return absent

    def _one_frame(self, spec: ObservationSpec, came: threading.Event) -> Callable[[], None]:
        name = spec.peripheral or spec.key.rsplit(".", 1)[-1]

        def on_image(message: Message) -> None:
            if came.is_set():
                return
            try:
                # A view of the message would keep its whole buffer.
                self._recording.add_frame(name, IMAGES[spec.type](message, spec.topic).copy())
            except InvalidObservation as error:
                _logger.warning("%s", error)
            came.set()

        qos = QoS(depth=1, reliability="best_effort")
        return self._node.create_subscription(spec.topic, spec.type, on_image, qos, group="frames").close
