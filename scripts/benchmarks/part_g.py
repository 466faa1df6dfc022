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
from benchmarks.footprint import processor_s, resident_mib
from benchmarks.measure import Goal
from benchmarks.processes import BenchError

IMAGES = "localhost/inference-service/"
"""Where `docker compose build` puts them; images of tests have other names."""
SETTLE_S = 1.0
WORK_S = 10.0
DEVICE = "device node, distributed"
AT_WORK = "device node at work, two 480x640 cameras"
IMPORT_S = 120.0
PEER_MODULES = {
    "LeRobot's robot client (imports alone)": ("lerobot.async_inference.robot_client",),
    "openpi's client (imports alone)": ("numpy", "msgpack", "websockets.sync.client", "PIL.Image"),
}


def run(bench: Bench) -> Result:
    repeats = bench.times(5, 1)
    nodes = _nodes(bench)
    found = {name: _node(bench, *node, repeats=repeats) for name, node in nodes.items()}
    found[AT_WORK] = _at_work(bench, nodes[DEVICE][1])
    notes = [
        "Seconds from the start of the process to its ready line, median; the page cache is warm and the bytecode "
        "compiled, as after an installation. Processor seconds are those until then, whoever else used the machine."
    ]
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
    goals = [
        Goal("a distributed device, seconds to ready", found[DEVICE]["start_s"], 1.0),
        Goal(
            "a distributed device with two 480x640 cameras, resident MB", found[AT_WORK]["resident_mib"] * 1.048576, 100
        ),
    ]
    return Result({"processes": found, "images": images}, tables, goals, notes)


def _nodes(bench: Bench) -> dict[str, tuple[str, Mapping[str, Any], str]]:
    """Executable, parameters and what it says when it is ready."""
    device = {"checkpoint": DEMO_POLICY, "robot_config_path": ROBOT}
    engine = {"policy_path": DEMO_POLICY, "device": bench.device}
    return {
        DEVICE: ("lerobot_policy_node", {**device, "execution_mode": "distributed"}, "ready ("),
        "dispatcher": ("action_dispatcher_node", {"robot_config_path": ROBOT}, "Dispatcher ready"),
        "engine, the demonstration's policy": ("pure_inference_node", engine, "Waiting for preprocessed batches"),
    }


def _node(
    bench: Bench, executable: str, parameters: Mapping[str, Any], ready: str, *, repeats: int
) -> dict[str, float]:
    seconds, processor, resident = [], [], []
    for _ in range(repeats + 1):
        with bench.fresh() as fresh:
            node = fresh.node(executable, parameters, _environment(fresh))
            seconds.append(node.wait_for(ready))
            processor.append(processor_s(node.pid))
            time.sleep(SETTLE_S)
            resident.append(resident_mib(node.pid))
    # The first start compiles the bytecode.
    return _row(seconds[1:], processor[1:], resident[1:])


def _environment(bench: Bench) -> dict[str, str]:
    """With bytecode, as an installed package has it, wherever the checkout lies."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bench.work / "bytecode")}
    return bench.environment(bench.domain(), **bytecode)


def _at_work(bench: Bench, parameters: Mapping[str, Any]) -> dict[str, float]:
    """The device node with two cameras, an engine and a dispatcher, some chunks later."""
    with bench.fresh() as fresh:
        environment = _environment(fresh)
        fresh.engine(DEMO_POLICY, bench.device, environment)
        node = fresh.node("lerobot_policy_node", parameters, environment)
        fresh.node("action_dispatcher_node", {"robot_config_path": ROBOT}, environment)
        fresh.worker("robot", {}, environment).ready()
        node.wait_for("First inference complete")
        time.sleep(1.0 if bench.quick else WORK_S)
        return {"resident_mib": round(resident_mib(node.pid), 1)}


def _row(seconds: Sequence[float], processor: Sequence[float], resident: Sequence[float]) -> dict[str, float]:
    return {
        "start_s": round(median(seconds), 2),
        "processor_s": round(median(processor), 2),
        "resident_mib": round(median(resident), 1),
    }


def _imports(bench: Bench, modules: Sequence[str], repeats: int) -> dict[str, float]:
    assert bench.peer_python is not None
    found = []
    for _ in range(repeats):
        command = [bench.peer_python, "-m", "benchmarks.footprint", *modules]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S, check=False, cwd=bench.work)
        if done.returncode:
            raise BenchError(f"{' '.join(modules)}: {done.stderr.strip()[-300:]}")
        told = json.loads(done.stdout)
        found.append((time.monotonic() - started, told["processor_s"], told["resident_mib"]))
    return _row(*zip(*found, strict=True))


def _images() -> dict[str, float] | str:
    """Megabytes by image of ours, or why they are not known."""
    if shutil.which("docker") is None:
        return "there is no docker"
    command = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        names = [line.split() for line in listed.splitlines() if line.startswith(IMAGES)]
        sizes = {name: _image_bytes(image) / 1e6 for name, image in names}
    except (subprocess.SubprocessError, OSError, ValueError):
        return "Docker does not answer"
    return sizes or "Docker has none of ours: build them first"


def _image_bytes(image: str) -> int:
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)


def _table(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = [["process", "start s", "of it processor s", "resident MiB"]]
    for name, own in found.items():
        times = [f"{own[key]:.2f}" if key in own else "" for key in ("start_s", "processor_s")]
        rows.append([name, *times, f"{own['resident_mib']:.0f}"])
    return rows
