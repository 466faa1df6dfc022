"""The observer on real DDS: each stream of the stack becomes its event."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from demo_streams import TERMS

from inference_service.demo.collector import Collector
from inference_service.demo.recording import Recording
from inference_service.nodes.diagnostics import Level, Status
from inference_service.transport import create_node
from inference_service.transport.protocol import Node, QoS
from inference_service.wire.interfaces import new_message
from inference_service.wire.variants import to_variants
from robot_config import load_robot_config

COMMANDS = "std_msgs/msg/Float64MultiArray"
Send = Callable[[], None]


@pytest.fixture
def nodes(domain_id: int) -> Iterator[tuple[Node, Node]]:
    made = [create_node(name, domain_id=domain_id) for name in ("observer", "stack")]
    yield made[0], made[1]
    for node in made:
        node.close()


@pytest.fixture
def recording() -> Recording:
    return Recording(TERMS)


@pytest.fixture
def collector(nodes: tuple[Node, Node], recording: Recording) -> Collector:
    return Collector(nodes[0], load_robot_config("so101_sim"), "act", recording)


def until(arrived: Callable[[], bool], send: Send = lambda: None) -> None:
    """Send again and again until it has arrived: discovery takes its time."""
    deadline = time.monotonic() + 20
    while not arrived():
        assert time.monotonic() < deadline
        send()
        time.sleep(0.05)


def test_an_events_time_is_that_of_its_sending_however_late_it_is_taken(
    nodes: tuple[Node, Node], collector: Collector, recording: Recording
) -> None:
    """Fault: the observer gets no processor. Expected: what it takes late was not sent late."""
    publisher = nodes[1].create_publisher("/action_dispatcher/queue_size", "std_msgs/msg/Int32")

    def send(size: int) -> None:
        publisher.publish(new_message("std_msgs/msg/Int32", data=size))

    until(lambda: bool(recording.queue), lambda: send(1))
    held, go_on = threading.Event(), threading.Event()

    def starve(_recording: Recording) -> None:
        held.set()
        go_on.wait(20)

    starving = threading.Thread(target=recording.read, args=(starve,))
    starving.start()
    try:
        assert held.wait(20)
        send(2)  # is taken, and waits for the recording
        send(3)  # is taken after it
        sent = time.monotonic()
        time.sleep(0.3)
    finally:
        go_on.set()
        starving.join()
    until(lambda: recording.queue[-1].size == 3)
    assert recording.queue[-1].t <= sent + 0.01


def test_every_stream_arrives(nodes: tuple[Node, Node], collector: Collector, recording: Recording) -> None:
    stack = nodes[1]
    chunk = {"action": np.zeros((50, 6), np.float32), "action.request_id": ["a-1"],
             "timing.stages": ["total", "wire"], "timing.ms": np.array([21.5, 2.0])}  # fmt: skip
    pair = new_message("diagnostic_msgs/msg/KeyValue", key="state", value="READY")
    card = new_message(
        "diagnostic_msgs/msg/DiagnosticStatus", level=0, name="engine", message="", hardware_id="", values=[pair]
    )
    header = new_message("std_msgs/msg/Header", stamp=new_message("builtin_interfaces/msg/Time", sec=1, nanosec=0),
                         frame_id="")  # fmt: skip
    status = Status(Level.WARN, "action_dispatcher", "holding", {"hold_ticks": "3"}).to_message()
    layout = new_message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    joints = new_message("sensor_msgs/msg/JointState", header=header, name=["1", "2"], position=np.array([0.5, -0.5]),
                         velocity=np.array([]), effort=np.array([]))  # fmt: skip
    streams = [
        ("/actions/act", "ibrobot_msgs/msg/VariantsList", to_variants(chunk), QoS()),
        ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray",
         new_message("diagnostic_msgs/msg/DiagnosticArray", header=header, status=[status]), QoS()),
        ("/inference/engine", "diagnostic_msgs/msg/DiagnosticStatus", card, QoS(1, durability="transient_local")),
        ("/action_dispatcher/queue_size", "std_msgs/msg/Int32", new_message("std_msgs/msg/Int32", data=31), QoS()),
        ("/joint_states", "sensor_msgs/msg/JointState", joints, QoS()),
        ("/arm_position_controller/commands", COMMANDS,
         new_message(COMMANDS, layout=layout, data=np.array([0.1, 0.2])), QoS()),
    ]  # fmt: skip
    publishers = [(stack.create_publisher(topic, kind, qos), message) for topic, kind, message, qos in streams]

    def send() -> None:
        for publisher, message in publishers:
            publisher.publish(message)

    until(lambda: bool(recording.chunks and recording.health and recording.card and recording.queue
                       and recording.joints and recording.commands), send)  # fmt: skip
    seen = recording.chunks[0]
    assert (seen.request_id, dict(seen.stages)) == ("a-1", {"total": 21.5, "wire": 2.0})
    assert recording.dispatcher("hold_ticks") == 3
    assert recording.health["action_dispatcher"].level == 1
    assert recording.card is not None
    assert recording.card.values["state"] == "READY"
    assert recording.queue[0].size == 31
    assert recording.joints[0].positions == {"1": 0.5, "2": -0.5}
    assert recording.commands["/arm_position_controller/commands"][0].values == (0.1, 0.2)
    assert collector.crowded() is None


def test_pictures_are_taken_on_demand_and_the_absent_camera_is_named(
    nodes: tuple[Node, Node], collector: Collector, recording: Recording
) -> None:
    image = "sensor_msgs/msg/Image"
    header = new_message("std_msgs/msg/Header", stamp=new_message("builtin_interfaces/msg/Time", sec=1, nanosec=0),
                         frame_id="")  # fmt: skip
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8)
    picture = new_message(
        image, header=header, height=4, width=6, encoding="bgr8", is_bigendian=0, step=18, data=pixels
    )
    publisher = nodes[1].create_publisher("/camera/top/image_raw", image)
    nodes[1].create_timer(0.05, lambda: publisher.publish(picture))
    assert collector.take_frames(3.0) == ["/camera/wrist/image_raw"]
    assert np.array_equal(recording.frames["top"], pixels.reshape(4, 6, 3)[:, :, ::-1])


def test_another_stack_in_the_domain_is_noticed(nodes: tuple[Node, Node], collector: Collector, domain_id: int) -> None:
    stranger = create_node("stranger", domain_id=domain_id)
    try:
        for node in (nodes[1], stranger):
            node.create_publisher("/actions/act", "ibrobot_msgs/msg/VariantsList")
        until(lambda: collector.crowded() == "/actions/act")
    finally:
        stranger.close()
