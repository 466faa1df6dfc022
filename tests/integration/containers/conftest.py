"""Container tests: images built once, figures shown at the end, nothing of the caller's environment let in."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Both come with the extra `dev`. Without them these tests cannot even be read; the others can.
_USABLE = all(find_spec(package) for package in ("docker", "testcontainers"))
collect_ignore_glob = [] if _USABLE else ["test_*.py"]
if _USABLE:
    from stack_rig import REPO, Stack, example_settings, image

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
# Those that the other tests leave free, and whose ports no connection of the machine takes.
_domains = itertools.cycle(random.sample([100, 101, *range(215, 230)], 17))
_figures = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_figures] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(_figures, []):
        terminalreporter.section("measured")
        for line in config.stash[_figures]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return request.config.stash[_figures].append


@pytest.fixture(autouse=True, scope="session")
def _nothing_from_outside() -> None:
    """Variables of the shell would win over a stack's own .env."""
    for name in [*example_settings(), "COMPOSE_PROFILES", "COMPOSE_FILE", "STACK_NAME"]:
        os.environ.pop(name, None)


@pytest.fixture(scope="module")
def domain() -> int:
    return next(_domains)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[str], None]) -> Callable[[str], str]:
    """Builds a target once; the image's name."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout.strip()
    built: set[str] = set()
    services = {"device": ("device", "cpu"), "sim": ("sim", "cpu")}

    def make(target: str) -> str:
        if target not in built:
            service, engine = services.get(target, (target, target.removeprefix("engine-")))
            settings = {"VERSION_COMMIT": commit or "unknown", "ENGINE": engine}
            stack = Stack(tmp_path_factory.mktemp("build"), "inference-service-build", ["*"], settings)
            started = time.monotonic()
            stack.run("build", service, timeout_s=1500)
            measured(f"build of {target}: {time.monotonic() - started:.0f} s")
            built.add(target)
        return image(target)

    return make


@pytest.fixture(scope="session")
def images(build: Callable[[str], str]) -> None:
    """The images of a stack on the CPU."""
    build("device")
    build("sim")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A directory that containers may read."""
    tmp_path.chmod(0o755)
    made = tmp_path / "empty"
    made.mkdir(mode=0o755)
    yield made
