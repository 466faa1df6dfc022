"""The observer: a node that only listens, and turns what it hears into events."""

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
DEEP = QoS(depth=50)

_logger = logging.getLogger(__name__)


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
            self._subscribe(topic, JOINT_STATE, self._on_joints, QoS(reliability="best_effort"))
        for action in robot.contract.actions:
            if action.publish.type in COMMANDS:
                self._follow_commands(action.publish.topic, action.publish.type)

    def _subscribe(self, topic: str, kind: str, callback: Callable[[Message], None], qos: QoS = DEEP) -> Subscription:
        return self._node.create_subscription(topic, kind, callback, qos, group=GROUP)

    def _follow_commands(self, topic: str, kind: str) -> None:
        def on_command(message: Message) -> None:
            values = tuple(float(v) for v in np.ravel(message.data))
            self._see(Command(time.monotonic(), topic, values))

        self._subscribe(topic, kind, on_command)

    def _see(self, event: Event) -> None:
        self._recording.see(event)

    def _on_diagnostics(self, message: Message) -> None:
        now = time.monotonic()
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self._see(Health(now, status.name, int(status.level), status.message, values))

    def _on_chunk(self, message: Message) -> None:
        now = time.monotonic()
        items = from_variants(message)
        stages = dict(zip(items.get("timing.stages", ()), map(float, items.get("timing.ms", ())), strict=False))
        request_id = next(iter(items.get("action.request_id", ())), "")
        self._see(Chunk(now, request_id, stages))

    def _on_queue(self, message: Message) -> None:
        self._see(QueueSize(time.monotonic(), int(message.data)))

    def _on_joints(self, message: Message) -> None:
        self._see(Joints(time.monotonic(), dict(zip(message.name, map(float, message.position), strict=False))))

    def _on_card(self, message: Message) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self._see(Card(time.monotonic(), {"state": message.message, **values}))

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
