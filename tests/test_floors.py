"""Imports run downhill only (CONTRIBUTING.md, "Where things are"), read from the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "robot_config": 0,
    "inference_service.core": 0,
    "inference_service.readiness": 0,
    "inference_service.backends": 1,
    "inference_service.dispatch": 1,
    "inference_service.sim": 1,
    "inference_service.wire": 1,
    "inference_service.transport": 2,
    "inference_service.nodes": 3,
}
STARTERS = 4
ROS = {"rclpy", "launch", "launch_ros", "ament_index_python", "rosidl_runtime_py", "rpyutils"}
VENDORS = {"torch", "lerobot", "transformers", "onnxruntime", "onnx", "acl", "rknnlite"}


def room_of(module: str) -> tuple[str, int]:
    """The room that holds a module, and its floor; what is in none starts nodes."""
    for room, floor in FLOORS.items():
        if module == room or module.startswith(f"{room}."):
            return room, floor
    return module, STARTERS


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(_read())


def _read() -> Iterator[tuple[str, ast.Module]]:
    for package in ("inference_service", "robot_config"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """Absolute names of the modules that one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        if node.module == "inference_service":
            return [f"inference_service.{alias.name}" for alias in node.names if alias.name != "__version__"]
        return [node.module]
    return []


def test_imports_run_downhill() -> None:
    uphill = []
    for module, tree in modules():
        room, floor = room_of(module)
        for target in (name for node in ast.walk(tree) for name in imported(node)):
            if target.partition(".")[0] not in ("inference_service", "robot_config"):
                continue
            other, height = room_of(target)
            beside = height == floor and other != room and floor < STARTERS
            if height > floor or beside:
                uphill.append(f"{module} imports {target}")
    assert uphill == []


def test_ros_is_imported_by_its_transport_and_the_launch_files_alone() -> None:
    found = {
        module
        for module, tree in modules()
        for node in ast.walk(tree)
        for target in imported(node)
        if target.partition(".")[0] in ROS
    }
    assert found
    launching = ("robot_config.launch.", "robot_config.ros_launch", "inference_service.launch.")
    assert [m for m in found if not m.startswith(("inference_service.transport.ros", *launching))] == []


def test_no_backend_imports_its_vendors_library_before_it_is_chosen() -> None:
    early = [
        f"{module} imports {target}"
        for module, tree in modules()
        if not module.startswith("inference_service.backends.lerobot_")  # imported once LeRobot is chosen
        for node in tree.body
        for target in imported(node)
        if target.partition(".")[0] in VENDORS
    ]
    assert early == []
