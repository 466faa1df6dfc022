"""``ros2 launch robot_config robot.launch.py``: a robot's processes, as the plan says."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from robot_config.plan import LaunchArguments, from_mapping, plan_launch, ros_table


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` calls."""
    rows = ros_table(LaunchArguments)
    declared = [DeclareLaunchArgument(r.name, default_value=r.default, description=r.help) for r in rows]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LogInfo | Node]:
    """Nodes and notes of the plan for the arguments in ``context``."""
    given = {row.name: context.launch_configurations[row.name] for row in ros_table(LaunchArguments)}
    plan = plan_launch(from_mapping(LaunchArguments, given))
    nodes = [
        Node(
            package=process.package,
            executable=process.executable,
            name=process.name,
            # Typed: launch_ros reads bare text as YAML, and a path called 2024 is no number.
            parameters=[{k: ParameterValue(v, value_type=type(v)) for k, v in process.parameters.items()}],
            output="screen",
        )
        for process in plan.processes
    ]
    return [*(LogInfo(msg=note) for note in plan.notes), *nodes]
