"""What must be right before a container's nodes start: each problem in one line that names variable, mount and fix."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from inference_service.container.settings import Settings
from inference_service.core.errors import TransportError
from inference_service.transport.dds.config import load_config

_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_INTERFACES = Path("/sys/class/net")
_IFF_MULTICAST = 0x1000
_CAMERA_BYTES = 640 * 480 * 3
"""A raw camera picture: cameras are best effort, and one that does not fit the socket's buffer never arrives."""
_CLOSED = "cannot be read by uid {uid}: run `chmod -R a+rX` on the directory that MODEL_DIR names"
_LARGEST_MESSAGES = 4
"""Messages that a socket's buffer should hold: the kernel counts its own headers too, and two cameras coincide."""


def problems(settings: Settings, env: Mapping[str, str]) -> list[str]:
    """What keeps the container from working; empty when nothing does."""
    found = _dds_problems(env)
    if settings.policy:
        found += _source_problems(settings)
    if settings.needs_model:
        found += _model_problems(settings.model)
    if settings.needs_robot:
        found += _robot_problems(settings)
    return found


def warnings(settings: Settings, env: Mapping[str, str]) -> list[str]:
    """What works, but not well."""
    found = [_buffer_warning(settings, _RMEM_MAX)]
    interfaces = [name.strip() for name in (env.get("DDS_INTERFACE") or "lo").split(",")]
    if interfaces == ["lo"] and settings.role == "device":
        found.append(
            "DDS_INTERFACE=lo: only this machine is reached. For an engine on another one set DDS_INTERFACE "
            "to the network interface between them, on both"
        )
    if not env.get("DDS_PEERS"):
        found += [_multicast_warning(name) for name in interfaces]
    return [text for text in found if text]


def _dds_problems(env: Mapping[str, str]) -> list[str]:
    if not env.get("ROS_DOMAIN_ID"):
        return ["ROS_DOMAIN_ID is not set: set it in .env, the same on every machine of the robot"]
    try:
        load_config(env)
    except TransportError as error:
        return [str(error)]
    return []


def _source_problems(settings: Settings) -> list[str]:
    if settings.role != "device":
        return [f"POLICY={settings.policy}: only a device has its policy from an engine; mount it (MODEL_DIR in .env)"]
    if not re.fullmatch(r"engine://[0-9a-f]{0,64}", settings.policy):
        return [
            f"POLICY={settings.policy}: wants engine:// or engine://FINGERPRINT: set POLICY_FINGERPRINT in .env to the "
            "first hex digits of the policy's fingerprint, or leave it empty"
        ]
    return []


def _model_problems(model: Path) -> list[str]:
    fix = "set MODEL_DIR in .env to a policy's directory (the one with config.json)"
    if not model.is_dir():
        return [f"{model} is not mounted: {fix}"]
    if not os.access(model, os.R_OK | os.X_OK):
        return [
            f"{model} cannot be read by uid {os.getuid()}: run `chmod -R a+rX` on the directory that MODEL_DIR names"
        ]
    if not any(model.iterdir()):
        return [f"{model} is empty: {fix}"]
    if not (model / "config.json").is_file():
        return [f"{model} holds no config.json: {fix}"]
    closed = [path.name for path in sorted(model.iterdir()) if not os.access(path, os.R_OK)]
    if closed:
        return [f"{model}: {', '.join(closed)} {_CLOSED.format(uid=os.getuid())}"]
    return []


def _robot_problems(settings: Settings) -> list[str]:
    if not settings.robots.is_dir() or Path(settings.robot_file).is_file():
        return []
    present = sorted(path.stem for path in settings.robots.glob("*.yaml"))
    there = f"it has {', '.join(present)}" if present else "it has no *.yaml file"
    return [
        f"ROBOT_CONFIG={settings.robot}: no such file in {settings.robots} ({there}): "
        "set ROBOT_CONFIG, or ROBOT_CONFIG_DIR, in .env"
    ]


def largest_message(settings: Settings) -> int:
    """Bytes of the largest message that this container receives or sends: the policy's batch, or a camera picture.

    Images travel as bytes between our own nodes, everything else as 4-byte numbers (WIRE.md).
    """
    if not settings.needs_model:
        return _CAMERA_BYTES
    features = json.loads((settings.model / "config.json").read_text()).get("input_features", {})
    shapes = [feature.get("shape", []) for feature in features.values()]
    batch: int = sum(math.prod(shape) * (1 if len(shape) == 3 else 4) for shape in shapes)
    return batch if settings.role == "engine" else max(batch, _CAMERA_BYTES)


def _buffer_warning(settings: Settings, rmem_max: Path) -> str:
    try:
        granted = int(rmem_max.read_text())
    except (OSError, ValueError):  # hidden in a container with a network of its own
        return ""
    wanted = _LARGEST_MESSAGES * largest_message(settings)
    if granted >= wanted:
        return ""
    size = 1 << max(25, math.ceil(math.log2(wanted)))
    return (
        f"net.core.rmem_max is {granted} bytes, messages of {largest_message(settings)} bytes want {wanted}: pictures "
        f"will be lost or late. On the host run: sudo sysctl -w net.core.rmem_max={size} net.core.wmem_max={size}"
    )


def _multicast_warning(interface: str) -> str:
    try:
        flags = int((_INTERFACES / interface / "flags").read_text(), 16)
    except (OSError, ValueError):
        return ""
    if interface == "lo" or flags & _IFF_MULTICAST:
        return ""
    return f"DDS_INTERFACE={interface} has no multicast: name the other machines in DDS_PEERS, or they are not found"
