"""The robot as the dispatcher meets it: its limits, its command topics, its measured joints."""

from __future__ import annotations

import threading
import time
from functools import partial
from math import inf

import numpy as np

from inference_service.core.errors import TransportError
from inference_service.dispatch.queue import Float64
from inference_service.dispatch.safety import JointBounds, SafeBehaviour, SafetyLimits
from inference_service.transport.protocol import Message, Node, Publisher, QoS
from inference_service.wire.interfaces import new_message
from robot_config import ActionChannel, ContractError, RobotConfig

COMMAND = "std_msgs/msg/Float64MultiArray"
JOINT_STATE = "sensor_msgs/msg/JointState"
OWN_KEPT = 256
"""Commands remembered, to tell one's own from others' on the same topic."""


def safety_limits(robot: RobotConfig, ramp_s: float) -> SafetyLimits:
    """The robot's ``safety:`` section and limits, one entry per element of its action vector.

    Where ``on_timeout`` is ``hold``, elements whose ``safety_behavior`` is ``zeros`` go to zero instead.

    Raises:
        ContractError: the contract's actions do not make up a vector.
        ValueError: limits that contradict each other.
    """
    actions, safety = robot.action_map(), robot.safety
    zeroed = {i for channel in actions.channels if channel.spec.safety_behavior == "zeros" for i in channel.indices}
    measured = {joint for joints in joint_topics(robot).values() for joint in joints}
    joints = tuple(
        JointBounds(
            name=joint or f"action.{index}",
            lower=actions.lower[index],
            upper=actions.upper[index],
            max_velocity=(safety.max_joint_velocity or inf) if joint else inf,
            zero_when_safe=index in zeroed,
            measured=joint in measured,
        )
        for index, joint in enumerate(actions.joints)
    )
    return SafetyLimits(
        joints=joints,
        max_action_age_s=safety.max_action_age_s,
        hold_timeout_s=safety.hold_timeout_s,
        on_timeout=SafeBehaviour(safety.on_timeout),
        latch=safety.latch,
        ramp_s=ramp_s,
    )


def joint_topics(robot: RobotConfig) -> dict[str, tuple[str, ...]]:
    """Topics that report positions, each with the joints that the contract reads from it."""
    topics: dict[str, tuple[str, ...]] = {}
    for spec in robot.contract.observations:
        if spec.type != JOINT_STATE or spec.selector is None:
            continue
        fields = [name.rpartition(".") for name in spec.selector.names]
        joints = [joint for field, _, joint in fields if field in ("", "position")]
        if joints:
            topics[spec.topic] = tuple(dict.fromkeys((*topics.get(spec.topic, ()), *joints)))
    return topics


class Commands:
    """Publishes a command vector on the contract's topics."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        """Raises ContractError for a command topic of a type that is not served."""
        self._channels = [(channel, self._publisher(node, channel)) for channel in robot.action_map().channels]
        self._sent: dict[str, tuple[bytes, ...]] = {}
        self.rival: tuple[str, int] | None = None
        """Where and when (monotonic ns) somebody else's command was last heard."""
        for channel, _ in self._channels:
            heard = partial(self._on_command, channel.topic)
            node.create_subscription(channel.topic, COMMAND, heard, QoS(reliability="best_effort"), group="rivals")
        self.failures = 0
        """Commands that could not be handed to DDS."""
        self.last_failure = ""
        """What went wrong with the newest command; empty where it left."""

    @staticmethod
    def _publisher(node: Node, channel: ActionChannel) -> Publisher:
        publish = channel.spec.publish
        if publish.type != COMMAND:
            raise ContractError(publish.problem(f"{publish.type} is not served: write {COMMAND}", "type"))
        # Reliable whatever the file says: a reliable offer also serves best-effort controllers, and ros2_control
        # asks for reliable. Depth 1: only the newest command is worth sending again.
        return node.create_publisher(publish.topic, COMMAND, QoS(depth=1, durability=publish.qos.durability))

    def send(self, command: Float64) -> None:
        """Publish (joints,) float64, each channel its part. A failure of one does not keep the others back."""
        failure = ""
        for channel, publisher in self._channels:
            message = new_message(COMMAND, data=command[list(channel.indices)])
            self._sent[channel.topic] = (*self._sent.get(channel.topic, ())[1 - OWN_KEPT :], message.data.tobytes())
            try:
                publisher.publish(message)
            except TransportError as error:
                self.failures += 1
                failure = f"command on {channel.topic} not sent: {error}"
        self.last_failure = failure

    def _on_command(self, topic: str, message: Message) -> None:
        if np.asarray(message.data, np.float64).tobytes() not in self._sent.get(topic, ()):
            self.rival = topic, time.monotonic_ns()


class Joints:
    """Measured positions in the action vector's order, out of one or more joint state topics."""

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        self._names = robot.action_map().joints
        self._lock = threading.Lock()
        self._positions: dict[str, float] = {}
        self._received_ns: dict[str, int] = {}
        self._topics = joint_topics(robot)
        self.incomplete = 0
        """Messages that lacked a joint."""
        qos = QoS(depth=1, reliability="best_effort")
        for topic in self._topics:
            node.create_subscription(topic, JOINT_STATE, partial(self._on_message, topic), qos, group="joints")

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._topics)

    def _on_message(self, topic: str, message: Message) -> None:
        found = dict(zip(message.name, message.position, strict=False))
        wanted = self._topics[topic]
        if not all(joint in found for joint in wanted):
            self.incomplete += 1
            return
        with self._lock:
            self._positions.update({joint: float(found[joint]) for joint in wanted})
            self._received_ns[topic] = time.monotonic_ns()

    def latest(self) -> tuple[Float64, int] | None:
        """(joints,) float64, NaN where nothing reports it, and when the oldest part came (monotonic ns).

        ``None`` until every topic has reported.
        """
        with self._lock:
            if not self._topics or len(self._received_ns) < len(self._topics):
                return None
            values = [self._positions.get(name, np.nan) if name else np.nan for name in self._names]
            return np.array(values), min(self._received_ns.values())
