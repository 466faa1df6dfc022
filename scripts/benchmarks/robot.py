"""A robot that stands still: two cameras at 10 Hz and joint states at 50 Hz, on the demonstration robot's topics."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.folders import CAMERAS, STATE_DIM, make_observation
from benchmarks.worker import Server, serve
from inference_service.nodes.diagnostics import stamp_message
from inference_service.transport import create_node
from inference_service.transport.protocol import QoS
from inference_service.wire.interfaces import new_message

IMAGE, JOINTS = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"
CAMERA_PERIOD_S, JOINT_PERIOD_S = 0.1, 0.02


def make(_config: dict[str, Any]) -> Server:
    node = create_node("bench_robot")
    qos = QoS(depth=2, reliability="best_effort")
    pictures = make_observation(480, 640)
    cameras = {camera: node.create_publisher(f"/camera/{camera}/image_raw", IMAGE, qos) for camera in CAMERAS}
    joints = node.create_publisher("/joint_states", JOINTS, qos)

    def header() -> Any:
        return new_message("std_msgs/msg/Header", stamp=stamp_message(node.now_ns()))

    def look() -> None:
        for camera, publisher in cameras.items():
            picture = pictures[f"observation.images.{camera}"]
            height, width, _ = picture.shape
            layout = {"height": height, "width": width, "step": 3 * width, "encoding": "rgb8"}
            publisher.publish(new_message(IMAGE, header=header(), data=picture.reshape(-1), **layout))

    def feel() -> None:
        names = [str(joint + 1) for joint in range(STATE_DIM)]
        joints.publish(new_message(JOINTS, header=header(), name=names, position=np.zeros(STATE_DIM)))

    node.create_timer(CAMERA_PERIOD_S, look, group="cameras")
    node.create_timer(JOINT_PERIOD_S, feel, group="joints")
    return Server({}, node.close)


if __name__ == "__main__":
    sys.exit(serve(make))
