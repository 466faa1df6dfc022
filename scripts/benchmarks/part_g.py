"""(g) What stands on the robot: start-up time and resident memory of our processes and the peers' clients; images."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.folders import DEMO_POLICY, ROBOT
from benchmarks.footprint import resident_mib
from benchmarks.processes import BenchError

IMAGES = "inference-service"
SETTLE_S = 1.0
IMPORT_S = 120.0
PEER_MODULES = {
    "LeRobot's robot client (imports alone)": ("lerobot.async_inference.robot_client",),
    "openpi's client (imports alone)": ("numpy", "msgpack", "websockets.sync.client", "PIL.Image"),
}


def run(bench: Bench) -> Result:
    repeats = bench.times(3, 1)
    found = {name: _node(bench, *node, repeats=repeats) for name, node in _nodes(bench).items()}
    notes = ["Seconds from the start of the process to its ready line; the page cache is warm."]
    if bench.peer_python:
        found |= {name: _imports(bench, modules, repeats) for name, modules in PEER_MODULES.items()}
    else:
        notes.append("The peers' clients were left out: no --peers.")
    images = _images()
    tables = {"Processes": _table(found)}
    if isinstance(images, str):
        notes.append(f"Image sizes were left out: {images}.")
    else:
        tables["Images"] = [["image", "MB"], *([name, f"{size:.0f}"] for name, size in sorted(images.items()))]
    return Result({"processes": found, "images": images}, tables, notes=notes)


def _nodes(bench: Bench) -> dict[str, tuple[str, Mapping[str, Any], str]]:
    """Executable, parameters and what it says when it is ready."""
    device = {"checkpoint": DEMO_POLICY, "robot_config_path": ROBOT}
    engine = {"policy_path": DEMO_POLICY, "device": bench.device}
    return {
        "device node, distributed": ("lerobot_policy_node", {**device, "execution_mode": "distributed"}, "ready ("),
        "dispatcher": ("action_dispatcher_node", {"robot_config_path": ROBOT}, "Dispatcher ready"),
        "engine, the demonstration's policy": ("pure_inference_node", engine, "Waiting for preprocessed batches"),
    }


def _node(
    bench: Bench, executable: str, parameters: Mapping[str, Any], ready: str, *, repeats: int
) -> dict[str, float]:
    seconds, resident = [], []
    for _ in range(repeats):
        with bench.fresh() as fresh:
            node = fresh.node(executable, parameters, fresh.environment(fresh.domain()))
            seconds.append(node.wait_for(ready))
            time.sleep(SETTLE_S)
            resident.append(resident_mib(node.pid))
    return {"start_s": round(median(seconds), 2), "resident_mib": round(median(resident), 1)}


def _imports(bench: Bench, modules: Sequence[str], repeats: int) -> dict[str, float]:
    assert bench.peer_python is not None
    found = []
    for _ in range(repeats):
        command = [bench.peer_python, "-m", "benchmarks.footprint", *modules]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S, check=False, cwd=bench.work)
        if done.returncode:
            raise BenchError(f"{' '.join(modules)}: {done.stderr.strip()[-300:]}")
        found.append((time.monotonic() - started, json.loads(done.stdout)["resident_mib"]))
    seconds, resident = zip(*found, strict=True)
    return {"start_s": round(median(seconds), 2), "resident_mib": round(median(resident), 1)}


def _images() -> dict[str, float] | str:
    """Megabytes by image of ours, or why they are not known."""
    if shutil.which("docker") is None:
        return "there is no docker"
    command = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        names = [line.split() for line in listed.splitlines() if IMAGES in line]
        sizes = {name: _image_bytes(image) / 1e6 for name, image in names}
    except (subprocess.SubprocessError, OSError, ValueError):
        return "Docker does not answer"
    return sizes or "Docker has none of ours: build them first"


def _image_bytes(image: str) -> int:
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)


def _table(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = [["process", "start s", "resident MiB"]]
    return rows + [[name, f"{own['start_s']:.2f}", f"{own['resident_mib']:.0f}"] for name, own in found.items()]
