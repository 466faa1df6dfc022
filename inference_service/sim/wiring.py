"""Which topics a simulated robot speaks on: the contract of a robot's file, or the usual ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_service.core.errors import InferenceServiceError
from inference_service.sim.pictures import DEFAULT_SIZE
from robot_config import ActionMap, ObservationSpec, RobotConfig

DEFAULT_FPS = 10.0
"""What a robot's file asks for is served up to this rate, unless a parameter says otherwise: two cameras at 10 pictures
a second cost about a fifth of a core with software rendering."""

COMPRESSED = "sensor_msgs/msg/CompressedImage"
_IMAGES = ("sensor_msgs/msg/Image", COMPRESSED)


class WiringError(InferenceServiceError):
    """The robot's file asks for a camera or a joint that the simulated world does not have."""

    wire_name = "wiring"


@dataclass(frozen=True)
class CameraWire:
    """A camera of the model and where its pictures go. ``size`` is (height, width) in pixels."""

    name: str
    topic: str
    compressed: bool = False
    size: tuple[int, int] = DEFAULT_SIZE
    fps: float = DEFAULT_FPS
    frame_id: str = ""


@dataclass(frozen=True)
class CommandWire:
    """A command topic (``std_msgs/msg/Float64MultiArray``); value *i* of its messages moves ``joints[i]``."""

    topic: str
    joints: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """Everything that the simulated robot publishes and takes."""

    state_topic: str
    joints: tuple[str, ...]
    cameras: tuple[CameraWire, ...]
    commands: tuple[CommandWire, ...]

    def check(self, model: Any) -> None:
        """Raises WiringError, listing what there is, for a camera or a joint that a MuJoCo model does not have."""
        cameras = [model.camera(i).name for i in range(model.ncam)]
        joints = [model.actuator(i).name for i in range(model.nu)]
        for camera in self.cameras:
            if camera.name not in cameras:
                raise WiringError(
                    f"{camera.topic}: the simulated world has no camera {camera.name!r}, it has {', '.join(cameras)}: "
                    "change `peripheral` of the observation, or add the camera to the model"
                )
        for joint in {*self.joints, *(name for command in self.commands for name in command.joints)}:
            if joint not in joints:
                raise WiringError(
                    f"the simulated arm has no joint {joint!r}, it has {', '.join(joints)}: change `joints`"
                )


def default_wiring() -> Wiring:
    """Topics of the robot ``so101_sim``, for a start without a robot's file."""
    return Wiring(
        state_topic="/joint_states",
        joints=("1", "2", "3", "4", "5", "6"),
        cameras=tuple(
            CameraWire(name, f"/camera/{name}/image_raw", frame_id=f"camera_{name}_frame") for name in ("top", "wrist")
        ),
        commands=(
            CommandWire("/arm_position_controller/commands", ("1", "2", "3", "4", "5")),
            CommandWire("/gripper_position_controller/commands", ("6",)),
        ),
    )


def contract_wiring(config: RobotConfig) -> Wiring:
    """The topics that a robot's contract names.

    A picture's camera is its ``peripheral``, or the last part of its key (``observation.images.top``: ``top``).

    Raises:
        WiringError: no joint state in the contract, or an action that moves no joint.
        RobotConfigError: the contract's actions do not make up a vector.
    """
    observations = config.contract.observations
    state = next((o for o in observations if o.type == "sensor_msgs/msg/JointState"), None)
    if state is None:
        raise WiringError(f"{config.contract.where('observations')}: no sensor_msgs/msg/JointState to publish")
    pictures = {o.topic: o for o in observations if o.type in _IMAGES}
    return Wiring(
        state_topic=state.topic,
        joints=config.joint_names,
        cameras=tuple(_camera(config, spec) for spec in pictures.values()),
        commands=_commands(config.action_map()),
    )


def _camera(config: RobotConfig, spec: ObservationSpec) -> CameraWire:
    name = spec.peripheral or spec.key.rpartition(".")[2]
    device = next((p for p in config.peripherals if p.name == name), None)
    size = spec.image.resize if spec.image and spec.image.resize else DEFAULT_SIZE
    if device is not None and device.height and device.width:
        size = (device.height, device.width)
    return CameraWire(
        name=name,
        topic=spec.topic,
        compressed=spec.type == COMPRESSED,
        size=size,
        fps=min(DEFAULT_FPS, (device.fps if device else None) or DEFAULT_FPS),
        frame_id=(device.frame_id if device else None) or f"camera_{name}_frame",
    )


def _commands(actions: ActionMap) -> tuple[CommandWire, ...]:
    wires = []
    for channel in actions.channels:
        joints = [actions.joints[index] for index in channel.indices]
        named = tuple(joint for joint in joints if joint is not None)
        if len(named) != len(joints):
            raise WiringError(f"{channel.topic}: more actions than joints: name them all in `joints.all`")
        wires.append(CommandWire(channel.topic, named))
    return tuple(wires)
