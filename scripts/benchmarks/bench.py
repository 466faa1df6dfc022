"""What every part gets: how much to measure, where to write, and how to start the two ends of our own wire."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.folders import BACKEND, make_folder, make_plugin
from benchmarks.measure import Goal, Run
from benchmarks.processes import Node, Worker
from inference_service.demo.isolation import PREFERRED, domain_in_use

IMPORT_S = 90.0


@dataclass(frozen=True)
class Result:
    """What a part found: ``tables`` for people (title to rows, the first row the header), ``data`` for machines."""

    data: dict[str, Any]
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "tables": self.tables,
            "goals": [goal.to_json() for goal in self.goals],
            "notes": self.notes,
        }


class Bench:
    """A context that ends whatever was started within it. ``until`` (monotonic): when this part should have done."""

    def __init__(self, out: Path, *, quick: bool, seconds: float, device: str, peer_python: str | None) -> None:
        self.out = out
        self.quick = quick
        self.seconds = seconds
        self.device = device
        self.peer_python = peer_python
        self.work = out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self._plugin = make_plugin(self.work / "plugin")
        self._stack = ExitStack()
        self._domains: Iterator[int] = iter(PREFERRED)
        self._count = count(1)
        self.until = time.monotonic() + seconds
        self._nodes: list[Node] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def fresh(self) -> Bench:
        """The same bench for a context within this one: what is started in it ends with it."""
        inner = copy(self)
        inner._stack, inner._nodes = ExitStack(), []
        return inner

    def times(self, full: int, quick: int = 2) -> int:
        """How often: ``full`` at the default length, in proportion to ``--seconds``."""
        return quick if self.quick else max(quick, round(full * self.seconds / 100))

    def folder(self, height: int, width: int) -> Path:
        """A policy directory without weights for pictures of that size."""
        return make_folder(self.work / f"policy_{height}x{width}", height, width)

    def domain(self) -> int:
        """A DDS domain that nobody here uses."""
        return next(domain for domain in self._domains if not domain_in_use(domain))

    def _log(self, name: str) -> Path:
        return self.work / "logs" / f"{next(self._count):02d}_{name}.log"

    def environment(self, domain: int, **more: str) -> dict[str, str]:
        paths = [str(self._plugin), *filter(None, [os.environ.get("PYTHONPATH")])]
        network = {"CYCLONEDDS_URI": "", "DDS_INTERFACE": "lo", "ROS_DOMAIN_ID": str(domain)}
        return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **network, **more}

    def node(
        self, executable: str, parameters: Mapping[str, Any], environment: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> Node:
        """One of our executables with its parameters; its log lines are on its standard error."""
        words = [f"{key}:={value}" for key, value in parameters.items()]
        command = [*prefix, sys.executable, "-m", "inference_service.cli", "run", executable, *words]
        node = self._stack.enter_context(Node(command, self._log(executable), environment))
        self._nodes.append(node)
        return node

    def engine(
        self, folder: Path, device: str, environment: Mapping[str, str], prefix: Sequence[str] = (), **parameters: Any
    ) -> Node:
        return self.node(
            "pure_inference_node", {"policy_path": folder, "device": device, **parameters}, environment, prefix
        )

    def worker(
        self, module: str, config: Mapping[str, Any], environment: Mapping[str, str] | None = None, **more: Any
    ) -> Worker:
        log = self._log(module.rpartition(".")[2] + ("_" + config["role"] if "role" in config else ""))
        return self._stack.enter_context(
            Worker(
                f"benchmarks.{module}", config, log, environment=environment, cwd=self.work, beside=self._nodes, **more
            )
        )

    def peer(self, module: str, config: Mapping[str, Any], **more: Any) -> Worker:
        """A peer's side, on the peers' interpreter where it needs one (all but TCP do)."""
        environment = {"HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(self.work)}
        python = sys.executable if module == "tcp" else self.peer_python
        return self.worker(f"peers.{module}", config, environment, python=python, **more)

    def clients(self, peers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Worker]:
        """A server and a client on loopback for each of ``peers`` (module, configuration), ready to measure."""
        local = {"host": "127.0.0.1"}
        # All together: what they take is the import of torch.
        servers = {
            name: self.peer(module, {"role": "server", **local, **config}) for name, (module, config) in peers.items()
        }
        clients = {}
        for name, (module, config) in peers.items():
            port = servers[name].ready(IMPORT_S)["port"]
            clients[name] = self.peer(module, {"role": "client", "port": port, **local, **config})
        for client in clients.values():
            client.ready(IMPORT_S)
        return clients


def mode_of(worker: Worker, mode: str = "") -> Run:
    """A worker's rounds in one mode, as :func:`~benchmarks.measure.interleave` takes them."""
    return lambda rounds, period_s: worker.run(rounds, period_s, mode)


def constant(floats: bool) -> str:
    """The engine's device string for the policy that costs nothing."""
    return f"{BACKEND}:float" if floats else BACKEND


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
