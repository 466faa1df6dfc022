"""The node action of the stand-in, and the command line that launch_ros makes of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from launch import require_text
from launch.actions import Action

from launch_ros.parameter_descriptions import ParameterValue


class Node(Action):
    def __init__(
        self,
        *,
        executable: str,
        package: str | None = None,
        name: str | None = None,
        namespace: str | None = None,
        exec_name: str | None = None,
        parameters: list[Any] | None = None,
        remappings: Iterable[tuple[str, str]] | None = None,
        ros_arguments: Iterable[str] | None = None,
        arguments: Iterable[str] | None = None,
        output: str = "log",
    ) -> None:
        super().__init__()
        for what, text in (("executable", executable), ("package", package), ("name", name)):
            require_text(text, what)
        if re.fullmatch(r"[A-Za-z_]\w*", name or "") is None:
            raise ValueError(f"node name {name!r}")
        if output not in ("screen", "log", "both", "own_log", "full"):
            raise ValueError(f"'{output}' is not a valid standard output config")
        if not isinstance(parameters, list) or not all(isinstance(p, dict) for p in parameters):
            raise TypeError("parameters: expected a list of dictionaries or files")
        self.executable, self.package, self.name, self.parameters = executable, package, name, parameters

    def command(self, directory: Path) -> list[str]:
        """As ``launch_ros.actions.Node`` builds it: the executable out of the ament index, one file a dictionary."""
        cmd = [executable_in_package(self.package or "", self.executable), "--ros-args", "-r", f"__node:={self.name}"]
        for parameters in self.parameters:
            plain = {k: v.value if isinstance(v, ParameterValue) else yaml.safe_load(v) for k, v in parameters.items()}
            with NamedTemporaryFile("w", prefix="launch_params_", dir=directory, delete=False) as file:
                yaml.dump({"/**": {"ros__parameters": plain}}, file, default_flow_style=False)
            cmd += ["--params-file", file.name]
        return cmd


def executable_in_package(package: str, executable: str) -> str:
    """As ``launch_ros.substitutions.ExecutableInPackage`` finds it."""
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        if (Path(prefix) / "share/ament_index/resource_index/packages" / package).is_file():
            path = Path(prefix) / "lib" / package / executable
            if os.access(path, os.X_OK):
                return str(path)
            raise LookupError(f"executable '{executable}' not found on the libexec directory '{path.parent}'")
    raise LookupError(f"package '{package}' not found")
