"""``inference-service``: run one node, or launch a robot or an engine without ROS.

::

    inference-service launch robot_config:=so101_sim use_sim:=true      processes of a robot
    inference-service cloud_inference policy_path:=DIR device:=cuda     the engine, on the machine that computes
    inference-service run EXECUTABLE key:=value…                        one node in this process
    inference-service container ROLE                                    what the images run
    inference-service health [NODE…]                                    exit 0 when the nodes here are ready
    inference-service policy inspect|check|parity DIR                   look at a policy directory
    inference-service evaluate DIR                                      count how often a policy reaches the cube
    inference-service version
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from inference_service import readiness
from inference_service.core.errors import InferenceServiceError
from robot_config import RobotConfigError
from robot_config.errors import suggest
from robot_config.plan import EngineArguments, LaunchArguments, Plan, describe, make_engine_plan, plan_launch

EXECUTABLES = {
    "lerobot_policy_node": "inference_service.nodes.policy_node",
    "pure_inference_node": "inference_service.nodes.engine_node",
    "action_dispatcher_node": "inference_service.nodes.dispatcher_node",
    "sim_robot": "inference_service.nodes.sim_robot",
}
"""Executable names (those of the ROS package) and the modules whose ``main(argv) -> int`` they run."""

EXIT_USAGE = 2

USAGE = f"""usage:
  inference-service launch [key:=value…]             start a robot's processes
  inference-service cloud_inference [key:=value…]    start an engine, on the machine that computes
  inference-service run EXECUTABLE [key:=value…]     run one node: {", ".join(EXECUTABLES)}
  inference-service container ROLE                   what the images run: settings from the environment
  inference-service health [NODE…]                   exit 0 when the nodes of this machine are ready
  inference-service policy inspect|check|parity DIR  look at a policy: what it holds, whether it runs and agrees
  inference-service evaluate DIR                     let a policy drive the simulated arm, and count its successes
  inference-service version

launch and cloud_inference list their arguments with --show-args."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 fine, 1 a process failed, 2 wrong usage or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    command, rest = (words[0], words[1:]) if words else ("", [])
    commands = {
        "launch": _launch,
        "cloud_inference": _cloud_inference,
        "run": _run,
        "container": _container,
        "health": _health,
        "policy": _policy,
        "evaluate": _evaluate,
        "version": _version,
    }
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    command = "version" if command == "--version" else command
    if command not in commands:
        hint = f"unknown command {command!r}: {suggest(command, commands)}\n" if command else ""
        print(f"{hint}{USAGE}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return commands[command](rest)
    except (RobotConfigError, InferenceServiceError) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


def _launch(words: list[str]) -> int:
    if _asks_for_arguments(words):
        print(describe(LaunchArguments))
        return 0
    return _start(plan_launch(LaunchArguments.parse(words)))


def _cloud_inference(words: list[str]) -> int:
    if _asks_for_arguments(words):
        print(describe(EngineArguments))
        return 0
    return _start(make_engine_plan(EngineArguments.parse(words)))


def _asks_for_arguments(words: list[str]) -> bool:
    return any(word in ("-s", "--show-args", "-h", "--help") for word in words)


def _start(plan: Plan) -> int:
    from inference_service.launcher import Launcher

    for note in plan.notes:
        print(note, flush=True)
    if not plan.processes:
        print("Nothing to start.", file=sys.stderr)
        return EXIT_USAGE
    return Launcher(plan, output=sys.stdout).run()


def _run(words: list[str]) -> int:
    executable = words[0] if words else ""
    if executable not in EXECUTABLES:
        print(f"unknown executable {executable!r}: {suggest(executable, EXECUTABLES)}", file=sys.stderr)
        return EXIT_USAGE
    gc.disable()  # what is imported stays: walking it again and again takes an eighth of a node's start
    try:
        module = import_module(EXECUTABLES[executable])
        gc.freeze()
    finally:
        gc.enable()
    status: int = module.main(words[1:])
    return status


def _container(words: list[str]) -> int:
    from inference_service.container.main import main as container_main

    return container_main(words)


def _health(words: list[str]) -> int:
    problems = readiness.check(words)
    print("\n".join(problems) or "ready")
    return 1 if problems else 0


def _policy(words: list[str]) -> int:
    from inference_service import policy_cli

    return policy_cli.main(words)


def _evaluate(words: list[str]) -> int:
    from inference_service.evaluation.main import main as evaluate_main

    return evaluate_main(words)


def _version(_words: list[str]) -> int:
    print(version())
    return 0


def version() -> str:
    """The installed version, in an image with its commit, or ``unknown (not installed)`` in a bare checkout."""
    from importlib import metadata

    try:
        installed = metadata.version("inference-service")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
    commit = Path(__file__).with_name("COMMIT")
    return f"{installed} ({commit.read_text().strip()})" if commit.is_file() else installed


if __name__ == "__main__":
    sys.exit(main())
