"""Keys of IB-Robot's robot files that are somebody else's business.

They are accepted where they belong and ignored here, each by its name: a key that stands neither in the schema
nor in this table is refused, so a misspelt key never passes for somebody else's.
Sections that belong to a hardware plugin or a driver (``ros2_control``, ``peripherals``, ``teleoperation``) take
whatever that plugin takes; we read a few keys of them (see :mod:`robot_config.hardware`).
"""

from __future__ import annotations

from collections.abc import Mapping

ROBOT: Mapping[str, str] = {
    "controller_startup_timeout": "how long IB-Robot's launch waits for ros2_control",
    "controllers": "ros2_control controllers",
    "description": "text for people",
    "description_cn": "text for people",
    "gazebo_gui": "Gazebo",
    "gazebo_libgl_always_software": "Gazebo",
    "gazebo_qt_platform": "Gazebo",
    "gazebo_world_name": "Gazebo",
    "initial_pose_x": "Gazebo",
    "initial_pose_y": "Gazebo",
    "initial_pose_z": "Gazebo",
    "moveit": "MoveIt",
    "navigation": "navigation stack",
    "recording": "rosbag recording",
    "simulation": "Gazebo and MuJoCo bridges of IB-Robot",
    "tasks": "IB-Robot's task execution",
    "task_execution": "IB-Robot's task execution",
    "tracing": "LTTng tracing",
    "voice_asr": "speech recognition",
    "voice_nav": "speech recognition",
    "world_file": "Gazebo",
}

CONTROL_MODE: Mapping[str, str] = {
    "controllers": "ros2_control controllers",
    "description_cn": "text for people",
    "hardware_controllers": "ros2_control controllers",
    "sim_controllers": "ros2_control controllers",
}

EXECUTOR: Mapping[str, str] = {
    "dispatcher": "which of IB-Robot's dispatchers to start; here it is always ours",
    "enable_stable_mode": "IB-Robot's robot_evaluate node",
    "smoothing_device": "torch device of IB-Robot's smoother; ours needs none",
    "task_dispatch": "IB-Robot's task execution",
}

MODEL: Mapping[str, str] = {
    "description": "text for people",
    "node_name": "IB-Robot's name for a second inference node",
    "normalization": "older IB-Robot files; the policy's own statistics count",
}

CONTRACT: Mapping[str, str] = {
    "base_contract": "a contract file of IB-Robot's recorder; this section stands for itself",
    "max_duration_s": "rosbag recording",
    "name": "rosbag recording",
    "process": "dataset conversion",
    "recording": "rosbag recording",
    "robot_type": "dataset conversion",
    "tasks": "rosbag recording",
    "timestamp_source": "dataset conversion; align.stamp counts here",
    "version": "contract files",
}
