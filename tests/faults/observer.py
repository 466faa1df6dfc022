"""Looks at a running stack from outside, on the topics that anyone sees."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from inference_service.transport import create_node
from inference_service.transport.protocol import QoS

ERROR = 2
ARM, GRIPPER = "/arm_position_controller/commands", "/gripper_position_controller/commands"


class Observer:
    """Keeps the newest diagnostics of each node, every arm command, every chunk's request id, the joint states."""

    def __init__(self, domain_id: int) -> None:
        self.node = create_node("observer", domain_id=domain_id)
        self._lock = threading.Lock()
        self.level: dict[str, int] = {}
        self.message: dict[str, str] = {}
        self.values: dict[str, dict[str, str]] = {}
        self.commands: list[np.ndarray] = []
        self.chunks = 0
        self.joints: np.ndarray | None = None
        deep = QoS(depth=200)
        self.node.create_subscription("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", self._diagnostics, deep)
        self.node.create_subscription(ARM, "std_msgs/msg/Float64MultiArray", self._command, deep)
        self.node.create_subscription("/actions/act", "ibrobot_msgs/msg/VariantsList", self._chunk, deep)
        sensor = QoS(depth=5, reliability="best_effort")
        self.node.create_subscription("/joint_states", "sensor_msgs/msg/JointState", self._joints, sensor)

    def _diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.level[status.name] = int(status.level)
            self.message[status.name] = status.message
            self.values[status.name] = {pair.key: pair.value for pair in status.values}

    def _command(self, message: Any) -> None:
        with self._lock:
            self.commands.append(np.array(message.data, np.float64))

    def _chunk(self, message: Any) -> None:
        self.chunks += 1

    def _joints(self, message: Any) -> None:
        self.joints = np.array(message.position, np.float64)

    def state(self) -> str:
        return self.values.get("action_dispatcher", {}).get("state", "")

    def taken(self) -> list[np.ndarray]:
        """The commands so far."""
        with self._lock:
            return list(self.commands)

    def close(self) -> None:
        self.node.close()
