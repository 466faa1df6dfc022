"""The contract: which topics make up what a policy sees, and where its actions go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from robot_config.errors import ContractError, nearest
from robot_config.foreign import CONTRACT
from robot_config.section import AsTuple, Name, Names, RosType, Section, Topic

IMAGE = "sensor_msgs/msg/Image"
PICTURES = (IMAGE, "sensor_msgs/msg/CompressedImage")
JOINT_STATE = "sensor_msgs/msg/JointState"


class Qos(Section):
    """ROS 2 quality of service of a stream."""

    reliability: Literal["reliable", "best_effort"] = "reliable"
    """``reliable`` resends what was lost; ``best_effort`` does not wait for it."""
    history: Literal["keep_last"] = "keep_last"
    """Only ``keep_last``: a robot wants the newest."""
    depth: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How many messages are kept."""
    durability: Literal["volatile", "transient_local"] = "volatile"
    """``transient_local`` gives late joiners the last messages."""


class SensorQos(Qos):
    """Like :class:`Qos`; best effort by default, which matches reliable and best-effort publishers alike."""

    reliability: Literal["reliable", "best_effort"] = "best_effort"


class Selector(Section):
    """Which values of a message are meant, and in which order."""

    names: Names
    """``position.<joint>`` of a JointState, ``action.<index>`` of an action."""


class ImageConfig(Section):
    """What a camera's picture has to be."""

    resize: Annotated[tuple[int, int] | None, AsTuple] = None
    """[height, width] that the camera is expected to give. A picture of another aspect ratio is refused; the size that
    the policy wants is the policy's own business. Left out: whatever has the policy's aspect ratio."""
    encoding: str | None = None
    """Encoding written down for people; each message says its own."""
    channels: Annotated[int | None, Field(ge=1, le=4)] = None


class Align(Section):
    """Which sample of a stream belongs to an observation's time stamp."""

    strategy: Literal["hold", "asof", "drop"] = "hold"
    """``hold``/``asof``: the newest sample not after the stamp. ``drop``: and each sample at most once."""
    stamp: Literal["header", "receive"] = "receive"
    """A sample's time: its header's stamp, or when it arrived."""
    tol_ms: Annotated[float, Field(ge=0)] = 0.0
    """A sample older than this is stale, and no action is computed from it. 0: the node's default (1 s)."""


class ObservationSpec(Section):
    """A topic that gives (a part of) one input of the policy."""

    derived: ClassVar[tuple[str, ...]] = ("topic", "type")

    key: Name
    """Name of the policy's input, such as ``observation.images.top``."""
    topic: Topic
    """ROS topic. Default with a ``peripheral``: ``/camera/<peripheral>/image_raw``."""
    type: RosType
    """ROS message type. Default: Image for a ``peripheral`` or an ``observation.images.…`` key, else JointState."""
    peripheral: Name | None = None
    """The camera of ``peripherals`` that publishes it."""
    selector: Selector | None = None
    """Values to pick out of a message that holds several."""
    image: ImageConfig | None = None
    align: Align = Align()
    qos: SensorQos = SensorQos()

    @classmethod
    def complete(cls, data: dict[str, Any]) -> dict[str, Any]:
        camera = data.get("peripheral")
        pictures = camera is not None or str(data.get("key", "")).startswith("observation.image")
        if camera is not None:
            data.setdefault("topic", f"/camera/{camera}/image_raw")
        data.setdefault("type", IMAGE if pictures else JOINT_STATE)
        return data


class PublishStrategy(Section):
    """Kept for IB-Robot's recorder; the dispatcher publishes every action in its turn."""

    mode: Literal["nearest", "fifo"] = "nearest"
    tolerance_ms: Annotated[float, Field(ge=0)] = 0.0


class Publish(Section):
    """Where an action goes."""

    topic: Topic
    type: RosType = "std_msgs/msg/Float64MultiArray"
    layout: Literal["flat"] = "flat"
    """One flat array in the selector's order."""
    qos: Qos = Qos()
    strategy: PublishStrategy | None = None


class FromTensor(Section):
    """How a value of the policy becomes a command."""

    clamp: Annotated[tuple[float, float] | None, AsTuple] = None
    """[lowest, highest] value that is sent, on top of the joint limits."""


class ActionSpec(Section):
    """A command topic and the part of the policy's action that goes there."""

    key: Name = "action"
    """Name of the policy's output; LeRobot policies give ``action``."""
    selector: Selector
    """``action.<index>``: the positions of the action vector, in the order of the message."""
    publish: Publish
    from_tensor: FromTensor | None = None
    safety_behavior: Literal["hold", "zeros"] = "zeros"
    """What is safe for these actuators when no action is left: the last command again, or zeros (velocities)."""


class Contract(Section):
    """What the robot offers to a policy, and takes from it."""

    foreign: ClassVar[Mapping[str, str]] = CONTRACT

    rate_hz: Annotated[float, Field(gt=0, le=1000)] = 20.0
    """Rate that the policy's training data were recorded at: one action lasts 1/rate_hz seconds."""
    observations: Annotated[tuple[ObservationSpec, ...], AsTuple] = ()
    actions: Annotated[tuple[ActionSpec, ...], AsTuple] = ()

    def select(self, required: Iterable[str]) -> tuple[ObservationSpec, ...]:
        """The streams that a policy with these inputs needs, in its order; others of the robot are left alone.

        Args:
            required: names of the policy's inputs. ``task`` (the prompt) comes from no topic and is skipped.
                Several streams of one key are parts of it, in the file's order.

        Raises:
            ContractError: an input has no stream. Names both sides and the line to change.
        """
        wanted = [key for key in dict.fromkeys(required) if key != "task"]
        given = {key: [o for o in self.observations if o.key == key] for key in wanted}
        missing = [key for key in wanted if not given[key]]
        if missing:
            raise ContractError(self._misfit(wanted, missing))
        return tuple(spec for key in wanted for spec in given[key])

    def _misfit(self, wanted: list[str], missing: list[str]) -> str:
        offered = list(dict.fromkeys(o.key for o in self.observations))
        width = max(map(len, ["policy needs", *wanted]))
        rows = [f"  {'policy needs':<{width}}   robot gives"]
        for key in wanted:
            here = next((o for o in self.observations if o.key == key), None)
            rows.append(f"  {key:<{width}}   " + (f"{key} ({here.topic})" if here else "-- nothing --"))
        rows += [f"  {'':<{width}}   {key} (unused)" for key in offered if key not in wanted]
        spare = [key for key in offered if key not in wanted]
        advice = [self._advice(key, spare) for key in missing]
        return "\n".join([f"the contract lacks {', '.join(missing)}:", *rows, *advice])

    def _advice(self, missing: str, spare: list[str]) -> str:
        close = nearest(missing, spare)
        for index, spec in enumerate(self.observations):
            if spec.key == close:
                place = self.where("observations", index, "key")
                return f"{place}: change `key: {spec.key}` to `key: {missing}` if it is the same stream"
        return f"{self.where('observations')}: add an entry with `key: {missing}` and its topic"


@dataclass(frozen=True)
class ActionChannel:
    """One command topic. Position ``p`` of its message is element ``indices[p]`` of the action vector."""

    spec: ActionSpec
    indices: tuple[int, ...]

    @property
    def topic(self) -> str:
        return self.spec.publish.topic


@dataclass(frozen=True)
class ActionMap:
    """How an action vector becomes commands.

    All tuples have one entry per action index: ``targets`` the topic and the position in its message, ``joints`` the
    joint that it moves (None where ``joints.all`` names none, such as wheels), ``lower`` and ``upper`` the limits in
    the joint's unit (rad; infinite where none is configured).
    """

    channels: tuple[ActionChannel, ...]
    targets: tuple[tuple[str, int], ...]
    joints: tuple[str | None, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @property
    def dim(self) -> int:
        """Length of the action vector."""
        return len(self.targets)


def make_action_map(
    contract: Contract, joints: tuple[str, ...], limits: Mapping[str, tuple[float, float]]
) -> ActionMap:
    """Map action indices to topics, joints and limits.

    Element *i* of an action moves joint *i* of ``joints`` (LeRobot's order is the robot's). An action whose names are
    all of the form ``action.N`` says its indices itself; any other names take the next free ones, in file order.

    Raises:
        ContractError: indices mixed in form, given twice, with gaps, or none at all.
    """
    channels = _channels(contract, [a for a in contract.actions if a.key == "action"])
    targets: dict[int, tuple[str, int]] = {}
    for channel in channels:
        for position, index in enumerate(channel.indices):
            if index in targets:
                message = f"action.{index} already goes to {targets[index][0]}; each goes to one place"
                raise ContractError(channel.spec.problem(message, "selector", "names", position))
            targets[index] = (channel.topic, position)
    _check_indices(contract, targets)
    dim = len(targets)
    named = tuple(joints[i] if i < len(joints) else None for i in range(dim))
    lower, upper = _limits(channels, named, limits)
    return ActionMap(channels, tuple(targets[i] for i in range(dim)), named, lower, upper)


def _check_indices(contract: Contract, targets: Mapping[int, Any]) -> None:
    if not targets:
        message = "no entry with `key: action`: nothing would move the robot"
        raise ContractError(contract.problem(message, "actions"))
    gaps = sorted(set(range(len(targets))) - set(targets))
    if gaps:
        lost = ", ".join(f"action.{i}" for i in gaps)
        message = f"{lost} goes nowhere: indices have to run from 0 without gaps"
        raise ContractError(contract.problem(message, "actions"))


def _channels(contract: Contract, specs: list[ActionSpec]) -> tuple[ActionChannel, ...]:
    numbered = {name.startswith("action.") for spec in specs for name in spec.selector.names}
    if numbered == {True, False}:
        message = "some names are action.N and some are not; use one form"
        raise ContractError(contract.problem(message, "actions"))
    if numbered == {True}:
        return tuple(ActionChannel(spec, _written_indices(spec)) for spec in specs)
    channels, used = [], 0
    for spec in specs:
        channels.append(ActionChannel(spec, tuple(range(used, used + len(spec.selector.names)))))
        used += len(spec.selector.names)
    return tuple(channels)


def _written_indices(spec: ActionSpec) -> tuple[int, ...]:
    for position, name in enumerate(spec.selector.names):
        if not name.removeprefix("action.").isdecimal():
            problem = spec.problem(f"expected action.<number>, found {name}", "selector", "names", position)
            raise ContractError(problem)
    return tuple(int(name.removeprefix("action.")) for name in spec.selector.names)


def _limits(
    channels: Iterable[ActionChannel], joints: tuple[str | None, ...], limits: Mapping[str, tuple[float, float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    lower, upper = [-math.inf] * len(joints), [math.inf] * len(joints)
    for index, joint in enumerate(joints):
        if joint is not None and joint in limits:
            lower[index], upper[index] = limits[joint]
    for channel in channels:
        clamp = channel.spec.from_tensor.clamp if channel.spec.from_tensor else None
        if clamp is None:
            continue
        for index in channel.indices:
            lower[index], upper[index] = max(lower[index], clamp[0]), min(upper[index], clamp[1])
    return tuple(lower), tuple(upper)
