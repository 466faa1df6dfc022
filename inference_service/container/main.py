"""``inference-service container ROLE``: what the images run.

With a configuration that cannot work the container stays, unhealthy, says once what is wrong and looks again every
few seconds: an interface may come up and a directory be filled. It does not end, for Docker would restart it in a
loop; asked to stop it ends with status 2.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from inference_service.container import checks, host
from inference_service.container.settings import ROLES, ContainerError, Settings, make_container_plan
from inference_service.container.supervisor import EXIT_BAD_CONFIGURATION, Supervisor
from inference_service.core.errors import InferenceServiceError
from inference_service.core.stop_signals import STOP_SIGNALS, StopSignals
from inference_service.launcher import Launcher
from inference_service.readiness import remove_status, write_status
from inference_service.transport.dds.config import apply_config, load_config
from robot_config import RobotConfigError
from robot_config.plan import Plan

CONFIGURATION = "configuration"
"""Stands for the container in health checks until its nodes are started."""
RETRY_S = 10.0
_FORMAT = "[%(levelname)s] [%(created).9f] [%(name)s]: %(message)s"  # as the nodes' own

_logger = logging.getLogger("container")


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 stopped in order, 1 a node failed to, 2 the configuration cannot work."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=_FORMAT, force=True)
    if list(argv) == ["check"]:
        return _check_host(os.environ)
    if len(argv) != 1:
        _logger.error("usage: inference-service container %s|check", "|".join(ROLES))
        return EXIT_BAD_CONFIGURATION
    stop = StopSignals()
    stop.listen(*STOP_SIGNALS)
    settings = Settings.read(argv[0], os.environ)
    plan = _wait_for_plan(settings, os.environ, stop)
    if plan is None:
        return EXIT_BAD_CONFIGURATION
    if settings.transport != "dds":
        apply_config(load_config(os.environ))  # ROS 2's middleware reads it by itself
    for process in plan.processes:
        write_status(process.name, ready=False, message="is starting")
    return Supervisor(Launcher(plan, output=sys.stdout)).run(stop)


def _check_host(env: Mapping[str, str]) -> int:
    missing = host.missing(env.get("ENGINE") or "cpu", env)
    for problem in missing:
        _logger.error("%s", problem)
    return EXIT_BAD_CONFIGURATION if missing else 0


def _wait_for_plan(settings: Settings, env: Mapping[str, str], stop: StopSignals) -> Plan | None:
    """The plan as soon as the configuration works; None when asked to stop before."""
    said = ""
    while not stop.is_set():
        try:
            plan = prepare(settings, env)
        except (RobotConfigError, InferenceServiceError) as error:
            if str(error) != said:
                said = str(error)
                for line in said.splitlines():
                    _logger.error("%s", line)
                _logger.error("Nothing is started; looking again every %g s.", RETRY_S)
            _stay_unready(said, stop)
            continue
        remove_status(CONFIGURATION)
        for text in [*checks.warnings(settings, env), *plan.notes]:
            _logger.warning("%s", text)
        return plan
    return None


def prepare(settings: Settings, env: Mapping[str, str]) -> Plan:
    """Check everything, then plan.

    Raises:
        ContainerError: the environment or a mount is wrong; every problem a line.
        RobotConfigError: the robot's file is.
    """
    found = checks.problems(settings, env)
    if found:
        raise ContainerError("\n".join(found))
    return make_container_plan(settings)


def _stay_unready(message: str, stop: StopSignals) -> None:
    for _ in range(int(RETRY_S)):
        write_status(CONFIGURATION, ready=False, message=message)
        if stop.wait(1.0):
            return
