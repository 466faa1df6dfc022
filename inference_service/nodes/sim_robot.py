"""``sim_robot``: a simulated arm that speaks a real one's topics, in real time.

Three threads: ``physics`` (steps the world by the time that passed, publishes joint states), ``commands`` (takes
targets and resets) and ``cameras`` (renders and publishes pictures; an OpenGL context belongs to one thread).
Faults for tests and demonstrations are parameters that start with ``fault_``.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from inference_service.core.errors import SafetyError
from inference_service.nodes.diagnostics import DiagnosticsPublisher, Level, Status
from inference_service.nodes.ros_arguments import ParameterError
from inference_service.nodes.runtime import NodeParameters, run_node
from inference_service.nodes.sim_cameras import Camera, CameraSide, Snapshot, header, spread
from inference_service.sim.faults import Faults
from inference_service.sim.referee import Referee, Score
from inference_service.sim.renderer import RendererKind
from inference_service.sim.wiring import CommandWire, Wiring, contract_wiring, default_wiring
from inference_service.sim.world import SimWorld
from inference_service.transport.protocol import Message, Node
from inference_service.wire.interfaces import new_message
from robot_config import load_robot_config

PHYSICS_HZ = 100.0
STATE_HZ = 50.0
TASK_HZ = 20.0
MAX_CATCH_UP_S = 0.1
"""After a longer pause (a stopped process) the world goes on from where it was instead of leaping ahead."""
SLOW = 0.9
"""A real-time factor below this is a warning."""

JOINT_STATE = "sensor_msgs/msg/JointState"
COMMAND = "std_msgs/msg/Float64MultiArray"
EMPTY = "std_srvs/srv/Empty"
TASK_TOPIC = "/{node}/task"
"""Ground truth of the task at TASK_HZ, a Float64MultiArray: seed, seconds since the cube was laid, metres from the
finger tips to the cube, cubes reached, cubes done with."""


class SimRobotParameters(NodeParameters):
    """``robot_config_path`` empty: the topics of ``so101_sim``.

    ``camera_fps`` and ``image_size`` (HxW) left out: what the robot's file says, the rate up to 10.
    ``image_encoding`` jpeg or png: CompressedImage, on the same topic where the contract says that type, else on
    ``<topic>/compressed``.
    """

    node_name: str = "sim_robot"
    robot_config_path: str = ""
    model_path: str = ""
    seed: int = 0
    renderer: RendererKind = "auto"
    camera_fps: float | None = Field(default=None, gt=0, le=120)
    image_size: str = ""
    image_encoding: Literal["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "jpeg", "png"] = "rgb8"
    cube_moves_after_s: float = Field(default=8.0, ge=0)
    """The cube moves when the finger tips have stayed at it, or after so long, from the first command on; 0: never."""
    reset_every_s: float = Field(default=0.0, ge=0)
    """Everything is reset that often, with the next seed each time, from the first command on; 0: never."""
    fault_freeze_camera: str = ""
    """This camera sends the same picture with the same stamp for ever."""
    fault_mute_camera: str = ""
    """This camera sends nothing."""
    fault_nan_state: bool = False
    """The first joint's position is NaN."""
    fault_drop_joint: str = ""
    """This joint is missing from the joint states."""
    fault_after_s: float = Field(default=0.0, ge=0)
    """Faults begin this long after the start…"""
    fault_for_s: float = Field(default=math.inf, gt=0)
    """…and end after this long."""


class ArmSide:
    """Physics in real time, joint states out, commands and resets in."""

    def __init__(self, node: Node, world: SimWorld, wiring: Wiring, faults: Faults, referee: Referee) -> None:
        self._node = node
        self._world = world
        self._referee = referee
        self._faults = faults
        self._logger = logging.getLogger(node.name)
        self._lock = threading.Lock()
        self._names = list(wiring.joints)
        self._index = [world.joint_names.index(name) for name in wiring.joints]
        self._last = time.monotonic()
        self._snapshot = self._look()
        self._refusing: set[str] = set()
        self.commands = 0
        self.refused = 0
        self.last_refusal = ""
        self.simulated_s = 0.0
        self._states = node.create_publisher(wiring.state_topic, JOINT_STATE)
        self._task = node.create_publisher(TASK_TOPIC.format(node=node.name), COMMAND)
        for wire in wiring.commands:
            node.create_subscription(wire.topic, COMMAND, self._taker(wire), group="commands")
        node.create_service(f"/{node.name}/reset", EMPTY, self._reset, group="commands")
        node.create_timer(1.0 / PHYSICS_HZ, self._step, group="physics")
        node.create_timer(1.0 / STATE_HZ, self._publish_state, group="physics")
        node.create_timer(1.0 / TASK_HZ, self._publish_task, group="physics")

    @property
    def snapshot(self) -> Snapshot:
        """The newest; whole, as it is replaced at once."""
        return self._snapshot

    def _look(self) -> Snapshot:
        positions, velocities = self._world.joint_positions, self._world.joint_velocities
        return Snapshot(self._node.now_ns(), self._world.qpos, positions[self._index], velocities[self._index])

    def _step(self) -> None:
        now = time.monotonic()
        dt = min(now - self._last, MAX_CATCH_UP_S)
        self._last = now
        with self._lock:
            self._world.step(dt)
            self._referee.step(dt)
            self._snapshot = self._look()
        self.simulated_s += dt

    def _publish_state(self) -> None:
        now = self._snapshot
        head = header(now.stamp_ns, "")
        names, positions, velocities = self._faults.corrupt(self._names, now.positions, now.velocities)
        self._states.publish(new_message(JOINT_STATE, header=head, name=names, position=positions, velocity=velocities))

    @property
    def score(self) -> Score:
        with self._lock:
            return self._referee.score

    def _publish_task(self) -> None:
        if self._task.matched:
            score = self.score
            values = [score.seed, score.elapsed_s, score.distance_m, score.reached, score.cubes]
            self._task.publish(new_message(COMMAND, data=np.array(values, np.float64)))

    def _taker(self, wire: CommandWire) -> Callable[[Message], None]:
        def take(message: Message) -> None:
            try:
                with self._lock:
                    self._world.set_targets(message.data, wire.joints)
                    self._referee.begin()
            except SafetyError as error:
                self._refuse(wire.topic, error)
                return
            self.commands += 1
            if wire.topic in self._refusing:
                self._refusing.discard(wire.topic)
                self._logger.info("%s: commands are accepted again", wire.topic)

        return take

    def _refuse(self, topic: str, error: SafetyError) -> None:
        self.refused += 1
        self.last_refusal = f"{topic}: {error}"
        if topic not in self._refusing:
            self._refusing.add(topic)
            self._logger.warning("Command refused: %s", self.last_refusal)

    @property
    def refusing(self) -> bool:
        """Whether the last command on some topic was refused."""
        return bool(self._refusing)

    def _reset(self, _request: Message) -> Message:
        with self._lock:
            self._referee.reset()
            cube = self._world.cube_position
            self._snapshot = self._look()
        self._logger.info("World reset: cube at x=%.3f y=%.3f", cube[0], cube[1])
        return new_message(f"{EMPTY}_Response")


class SimRobot:
    """The node's app: world, arm, cameras and their diagnostics."""

    def __init__(self, node: Node, parameters: SimRobotParameters) -> None:
        self._node = node
        wiring = _wiring(parameters)
        world = SimWorld(parameters.model_path or None, parameters.seed)
        wiring.check(world.model)
        faults = Faults(
            freeze_camera=parameters.fault_freeze_camera,
            mute_camera=parameters.fault_mute_camera,
            nan_state=parameters.fault_nan_state,
            drop_joint=parameters.fault_drop_joint,
            after_s=parameters.fault_after_s,
            for_s=parameters.fault_for_s,
        )
        logger = logging.getLogger(node.name)
        referee = Referee(world, parameters.seed, parameters.cube_moves_after_s, parameters.reset_every_s)
        self._arm = ArmSide(node, world, wiring, faults, referee)
        cameras = [Camera(node, wire, parameters.image_encoding, faults) for wire in wiring.cameras]
        spread(cameras)
        self._cameras = CameraSide(cameras, world, self._arm, parameters.renderer, logger)
        self._marks = self._count()
        self._diagnostics = DiagnosticsPublisher(node, self._collect)
        if cameras:
            self._cameras.start()
        logger.info(
            "Simulated robot ready: joints %s, commands on %s",
            ", ".join(wiring.joints),
            ", ".join(wire.topic for wire in wiring.commands),
        )

    @property
    def failure(self) -> str | None:
        return self._cameras.failure

    def _count(self) -> tuple[float, float, float, list[int]]:
        sent = [camera.sent for camera in self._cameras.cameras]
        return time.monotonic(), self._arm.simulated_s, self._cameras.render_s, sent

    def _collect(self) -> list[Status]:
        arm, cameras = self._arm, self._cameras
        before, self._marks = self._marks, self._count()
        elapsed = max(self._marks[0] - before[0], 1e-6)
        factor = (self._marks[1] - before[1]) / elapsed
        values = {
            "real_time_factor": f"{factor:.3f}",
            "commands": str(arm.commands),
            "refused": str(arm.refused),
            "last_refusal": arm.last_refusal,
            "renderer": cameras.renderer_name,
            "camera_busy": f"{(self._marks[2] - before[2]) / elapsed:.3f}",
            "lost_pictures": str(cameras.lost),
            "cubes_reached": str(arm.score.reached),
            "cubes": str(arm.score.cubes),
            "callback_errors": str(self._node.errors),
        }
        for camera, now, then in zip(cameras.cameras, self._marks[3], before[3], strict=True):
            values[f"fps.{camera.wire.name}"] = f"{(now - then) / elapsed:.1f}"
        level, text = self._judge(factor)
        return [Status(level, self._node.name, text, values)]

    def _judge(self, factor: float) -> tuple[Level, str]:
        if self.failure:
            return Level.ERROR, self.failure
        if self._arm.refusing:
            return Level.WARN, f"command refused: {self._arm.last_refusal}"
        if factor < SLOW:
            return Level.WARN, f"slower than real time: {factor:.2f}"
        return Level.OK, "running"

    def close(self) -> None:
        self._diagnostics.close()
        self._cameras.close()


def _wiring(parameters: SimRobotParameters) -> Wiring:
    """The robot file's wiring, with the camera parameters that were given on top."""
    path = parameters.robot_config_path
    wiring = contract_wiring(load_robot_config(path)) if path else default_wiring()
    names = [camera.name for camera in wiring.cameras]
    for key in ("fault_freeze_camera", "fault_mute_camera"):
        asked = getattr(parameters, key)
        if asked and asked not in names:
            raise ParameterError(f"{key}: no camera {asked!r}, this robot has {', '.join(names)}")
    if parameters.fault_drop_joint and parameters.fault_drop_joint not in wiring.joints:
        known = ", ".join(wiring.joints)
        raise ParameterError(f"fault_drop_joint: no joint {parameters.fault_drop_joint!r}, this robot has {known}")
    size = _size(parameters.image_size)
    return replace(
        wiring,
        cameras=tuple(
            replace(camera, size=size or camera.size, fps=parameters.camera_fps or camera.fps)
            for camera in wiring.cameras
        ),
    )


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None or "0" in match.groups():
        raise ParameterError(f"image_size {text!r}: write HEIGHTxWIDTH in pixels, such as 480x640")
    return int(match[1]), int(match[2])


def main(argv: Sequence[str]) -> int:
    """Entry point of ``sim_robot``."""
    return run_node(SimRobotParameters, SimRobot, argv)
