"""What a run is about: the robot, its policy, and what the robot's file promises of its commands."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.core.policy_folder import PolicyFolder
from inference_service.demo.options import DemoOptions
from inference_service.demo.promises import Terms
from robot_config import RobotConfig, load_robot_config
from robot_config.plan import LaunchArguments, Plan, make_plan

JOINT_STATE = "sensor_msgs/msg/JointState"
DEFAULT_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Stage:
    """``folder`` is the policy that both sides load."""

    robot: RobotConfig
    plan: Plan
    folder: PolicyFolder
    terms: Terms


def set_stage(options: DemoOptions) -> Stage:
    """Read the robot and the policy that ``options`` name, and plan the processes.

    Raises:
        RobotConfigError: no such robot or policy, the robot's file is wrong, or its control mode runs no policy.
        PolicyError: the policy's files are wrong.
    """
    robot = load_robot_config(options.robot)
    arguments = LaunchArguments(
        robot_config=options.robot,
        execution_mode=options.mode,
        use_sim=True,
        cloud_local=options.mode == "distributed",
        device=options.device,
        policy_path=str(options.policy.expanduser().absolute()) if options.policy else "",
        with_inference="true",
    )
    plan = make_plan(robot, arguments)
    checkpoint = next(str(p.parameters["checkpoint"]) for p in plan.processes if "checkpoint" in p.parameters)
    folder = PolicyFolder.load(checkpoint)
    return Stage(robot, plan, folder, make_terms(robot, folder))


def make_terms(robot: RobotConfig, folder: PolicyFolder) -> Terms:
    """The robot's promises in figures; an action may be as old as its chunk lasts where the file says nothing else."""
    safety = robot.safety
    period_s = 1.0 / robot.control_mode().executor.control_frequency
    tolerances = [o.align.tol_ms / 1e3 for o in robot.contract.observations if o.type == JOINT_STATE and o.align.tol_ms]
    return Terms(
        period_s=period_s,
        max_action_age_s=safety.max_action_age_s or (folder.config.chunk_size + 1) * period_s,
        hold_timeout_s=safety.hold_timeout_s,
        observation_tolerance_s=min(tolerances, default=DEFAULT_TOLERANCE_S),
        latch=safety.latch,
        joint_limits=command_limits(robot),
        fingerprint=folder.fingerprint,
    )


def command_limits(robot: RobotConfig) -> dict[str, list[tuple[str, float, float]]]:
    """For each command topic, (joint, lowest, highest) of each of its values in order."""
    actions = robot.action_map()

    def limits(index: int) -> tuple[str, float, float]:
        return actions.joints[index] or f"action.{index}", actions.lower[index], actions.upper[index]

    return {channel.topic: [limits(index) for index in channel.indices] for channel in actions.channels}
