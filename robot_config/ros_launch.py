"""The plan in the terms of ROS 2's ``launch``; what the launch files have in common. Needs ROS 2."""

from __future__ import annotations

from collections.abc import Callable

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from robot_config.arguments import Arguments, from_mapping, ros_table
from robot_config.plan import Plan, ProcessSpec


def launch_description(arguments: type[Arguments], plan: Callable[[Arguments], Plan]) -> LaunchDescription:
    """Declares the arguments; launched, it shows the notes of the plan for them and starts its nodes."""
    rows = ros_table(arguments)

    def start(context: LaunchContext) -> list[LogInfo | Node]:
        given = {row.name: context.launch_configurations[row.name] for row in rows}
        return _actions(plan(from_mapping(arguments, given)))

    entities: list[DeclareLaunchArgument | OpaqueFunction] = [
        DeclareLaunchArgument(row.name, default_value=row.default, description=row.help) for row in rows
    ]
    return LaunchDescription([*entities, OpaqueFunction(function=start)])


def _actions(plan: Plan) -> list[LogInfo | Node]:
    return [*(LogInfo(msg=note) for note in plan.notes), *(_node(process) for process in plan.processes)]


def _node(process: ProcessSpec) -> Node:
    return Node(
        package=process.package,
        executable=process.executable,
        name=process.name,
        # Typed: launch_ros reads bare text as YAML, and a path called 2024 is no number.
        parameters=[{k: ParameterValue(v, value_type=type(v)) for k, v in process.parameters.items()}],
        output="screen",
    )
