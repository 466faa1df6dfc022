"""``ros2 launch robot_config robot.launch.py``: a robot's processes, as the plan says."""

from __future__ import annotations

from launch import LaunchDescription

from robot_config.plan import LaunchArguments, plan_launch
from robot_config.ros_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` calls."""
    return launch_description(LaunchArguments, plan_launch)
