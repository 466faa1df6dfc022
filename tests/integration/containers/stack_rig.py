"""Stacks of the real compose file, and an observer outside the containers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from testcontainers.compose import DockerCompose

from inference_service.core.policy_folder import PolicyFolder
from inference_service.demo.collector import Collector
from inference_service.demo.promises import broken_promises
from inference_service.demo.recording import Recording
from inference_service.demo.stage import make_terms
from inference_service.transport import create_node
from robot_config import load_robot_config

REPO = Path(__file__).resolve().parents[3]
REGISTRY = "inference-service-test"
TAG = "test"
PATIENCE_S = 90.0
CA = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD = {
    "IMAGE_REGISTRY": REGISTRY,
    "IMAGE_TAG": TAG,
    "BUILD_NETWORK": "host",
    "BUILD_CA": str(CA) if CA.is_file() else "/dev/null",
}


def example_settings() -> dict[str, str]:
    """What ``.env.example`` sets."""
    lines = (REPO / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def image(name: str) -> str:
    return f"{REGISTRY}/{name}:{TAG}"


def client() -> Any:
    return docker.from_env()


def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for ``condition``; fail by the name of ``what``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)


@dataclass
class Stack:
    """One compose project: ``.env.example`` as copied, but for ``settings``."""

    directory: Path
    name: str
    profiles: list[str]
    settings: dict[str, str] = field(default_factory=dict)
    files: list[str] | None = None

    def __post_init__(self) -> None:
        merged = {**example_settings(), **BUILD, "STACK_NAME": self.name, **self.settings}
        self.env_file = self.directory / f"{self.name}.env"
        self.env_file.write_text("".join(f"{key}={value}\n" for key, value in merged.items()))
        self.compose = DockerCompose(
            REPO, compose_file_name=self.files, env_file=str(self.env_file), profiles=self.profiles, wait=False
        )

    def run(self, *words: str, timeout_s: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker compose … words``."""
        command = [*self.compose.docker_compose_command(), *words]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def logs(self, *services: str) -> str:
        command = [*self.compose.docker_compose_command(), "logs", "--no-color", "--tail", "40", *services]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False).stdout

    def container(self, service: str) -> Any:
        """The service's container, as it is now."""
        label = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        found = client().containers.list(all=True, filters={"label": label})
        assert found, f"{self.name} has no container of {service}"
        return found[0]

    def health(self, service: str) -> str:
        return str(self.container(service).attrs["State"].get("Health", {}).get("Status", "none"))

    def wait_healthy(self, *services: str) -> None:
        for service in services:
            try:
                until(lambda s=service: self.health(s) == "healthy", f"{service} healthy")  # type: ignore[misc]
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.logs(service)}") from None

    def stop_all(self) -> dict[str, int]:
        """Stop in order; exit codes by service."""
        self.run("stop")
        label = f"com.docker.compose.project={self.name}"
        stopped = client().containers.list(all=True, filters={"label": label})
        return {c.labels["com.docker.compose.service"]: int(c.attrs["State"]["ExitCode"]) for c in stopped}


@contextmanager
def stack(
    directory: Path, name: str, profiles: list[str], files: list[str] | None = None, **settings: str
) -> Iterator[Stack]:
    """A stack that leaves nothing behind. It is not started."""
    made = Stack(directory, name, profiles, settings, files)
    try:
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "5", check=False)


class Observer:
    """Listens on the host's loopback, where containers with the host's network talk."""

    def __init__(self, domain: int) -> None:
        robot = load_robot_config("so101_sim")
        folder = PolicyFolder.load(REPO / "policies/so101_act_demo")
        self.recording = Recording(make_terms(robot, folder))
        self._node = create_node(f"observer_{domain}", domain_id=domain)
        Collector(self._node, robot, "act", self.recording)

    def counts(self) -> tuple[int, int]:
        """Chunks and commands so far."""
        return self.recording.read(lambda r: (r.inferences, max(r.commanded.values(), default=0)))

    def wait_moving(self, seen_by: Stack | None = None, timeout_s: float = PATIENCE_S) -> None:
        """Until three more chunks have been computed and a second's worth of commands has followed."""
        chunks, commands = self.counts()

        def moving() -> bool:
            now = self.counts()
            return now[0] >= chunks + 3 and now[1] >= commands + 20

        try:
            until(moving, "the arm moves", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen_by.logs() if seen_by else ''}") from None

    def broken(self) -> dict[str, str]:
        """Promises broken as far as this says something of the stack: P4 is about time on a busy machine."""
        found = broken_promises(self.recording.read(lambda r: r.promises.verdicts()))
        return {promise: text for promise, text in found.items() if promise != "P4"}

    def close(self) -> None:
        self._node.close()


@contextmanager
def observer(domain: int) -> Iterator[Observer]:
    made = Observer(domain)
    try:
        yield made
    finally:
        made.close()
