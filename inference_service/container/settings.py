"""A container's settings: environment variables, set by compose out of ``.env``, and two mounts.

====================  ===========================================================================
variable              meaning
====================  ===========================================================================
``ROBOT_CONFIG``      robot: a file of ``/robot_config`` without ``.yaml`` (default ``so101_sim``)
``CONTROL_MODE``      control mode; empty: the robot's default
``POLICY``            of a device: ``engine://`` or ``engine://FINGERPRINT``, its policy's small files
                      come from the engine and ``/model`` is not needed; empty: ``/model``
``ENGINE``            accelerator of this container, for messages: cpu, cuda, ascend, rknn
``ENGINE_DEVICE``     runtime that computes, as the launch argument ``device`` (default ``auto``)
``ENGINE_THREADS``    CPU threads of the engine (default 0: its own choice)
``TRANSPORT``         ``dds``, or ``ros`` in an image with ROS 2, which sets it (default ``dds``)
``ROS_DOMAIN_ID``     required; with the ``DDS_…`` variables see ``transport/dds/config.py``
====================  ===========================================================================

``/model`` is the policy's directory (``MODEL_DIR`` on the host), ``/robot_config`` that of the robots' files
(``ROBOT_CONFIG_DIR``); without the latter the robots of the image are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from inference_service.core.errors import InferenceServiceError
from robot_config import load_robot_config
from robot_config.plan import EngineArguments, LaunchArguments, Plan, make_engine_plan, make_plan

Role = Literal["device", "monolithic", "engine", "sim"]
ROLES: tuple[Role, ...] = get_args(Role)


class ContainerError(InferenceServiceError):
    """The container's environment or mounts cannot work."""

    wire_name = "container"


@dataclass(frozen=True)
class Settings:
    """What one container is to do."""

    role: Role
    robot: str = "so101_sim"
    control_mode: str = ""
    policy: str = ""
    engine: str = "cpu"
    device: str = "auto"
    threads: str = "0"
    transport: str = "dds"
    model: Path = Path("/model")
    robots: Path = Path("/robot_config")

    @classmethod
    def read(cls, role: str, env: Mapping[str, str]) -> Settings:
        """From the environment; an empty variable counts as unset.

        Raises:
            ContainerError: no such role.
        """
        known: dict[str, Role] = {name: name for name in ROLES}
        if role not in known:
            raise ContainerError(f"no role {role!r}: wants one of {', '.join(ROLES)}")
        names = {
            "robot": "ROBOT_CONFIG",
            "control_mode": "CONTROL_MODE",
            "policy": "POLICY",
            "engine": "ENGINE",
            "device": "ENGINE_DEVICE",
            "threads": "ENGINE_THREADS",
            "transport": "TRANSPORT",
        }
        given = {field: env[name] for field, name in names.items() if env.get(name)}
        return replace(cls(known[role]), **given)  # type: ignore[arg-type]

    @property
    def needs_model(self) -> bool:
        return self.role != "sim" and not self.policy

    @property
    def needs_robot(self) -> bool:
        return self.role != "engine"

    @property
    def robot_file(self) -> str:
        """Path of the robot's file, or the name of a robot of the image where nothing is mounted."""
        if not self.robots.is_dir():
            return self.robot
        return str(self.robots / f"{self.robot.removesuffix('.yaml')}.yaml")


def make_container_plan(settings: Settings) -> Plan:
    """The processes of a container; the plan's notes are the robot file's warnings.

    Raises:
        RobotConfigError: the robot's file or an argument is wrong.
    """
    if settings.role == "engine":
        words = [f"policy_path:={settings.model}", f"device:={settings.device}", f"threads:={settings.threads}"]
        return make_engine_plan(EngineArguments.parse([*words, f"transport:={settings.transport}"]))
    cfg = load_robot_config(settings.robot_file)
    arguments = replace(
        LaunchArguments.parse([f"threads:={settings.threads}"]),
        config_path=settings.robot_file,
        control_mode=settings.control_mode,
        execution_mode="" if settings.role == "sim" else _EXECUTION_MODES[settings.role],
        use_sim=settings.role == "sim",
        with_inference="false" if settings.role == "sim" else "",
        device=settings.device if settings.role == "monolithic" else "",
        policy_path=settings.policy or (str(settings.model) if settings.needs_model else ""),
        transport=settings.transport,
    )
    return Plan(make_plan(cfg, arguments).processes, tuple(cfg.warnings))


_EXECUTION_MODES = {"device": "distributed", "monolithic": "monolithic"}
