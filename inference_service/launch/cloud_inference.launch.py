"""``ros2 launch inference_service cloud_inference.launch.py``: the engine, on the machine that computes."""

from __future__ import annotations

from launch import LaunchDescription

from robot_config.plan import EngineArguments, make_engine_plan
from robot_config.ros_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` calls."""
    return launch_description(EngineArguments, make_engine_plan)
