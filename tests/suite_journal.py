"""One journal for the whole run: every rule that any simulator of a vendor's runtime saw broken, in any process.

Beside its own journal, which its test reads, each simulator appends a line to the file in ``SIMULATOR_JOURNAL``. That
variable is set here for the run and inherited by whatever the tests start, so that a violation fails the run also
where no test looks: in a process that outlived its test, or was killed.

A test that breaks rules on purpose names them, ``@pytest.mark.breaks_rules("acl 4", "rknnlite core mask")``, and keeps
its violations to itself: they must be of these rules, all of them, and no others. Each simulator lists its rules as
``RULES``; ``test_simulator_rules.py`` looks whether each has such a test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "SIMULATOR_JOURNAL"
_own_directory: Path | None = None


def open_journal() -> None:
    """Start the run's journal, unless this process was started by a run that has one."""
    global _own_directory
    if VARIABLE not in os.environ:
        _own_directory = Path(tempfile.mkdtemp(prefix="simulator-journal-"))
        os.environ[VARIABLE] = str(_own_directory / "journal")


def violations() -> list[str]:
    """Of all processes so far: rule, tab, what happened and the test during which its process was started."""
    file = _own_directory / "journal" if _own_directory is not None else None
    return file.read_text().splitlines() if file is not None and file.exists() else []


@pytest.fixture(autouse=True)
def _rules_broken_on_purpose(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    marker = request.node.get_closest_marker("breaks_rules")
    if marker is None:
        yield
        return
    own = tmp_path_factory.mktemp("broken") / "journal"
    kept, os.environ[VARIABLE] = os.environ[VARIABLE], str(own)
    yield
    os.environ[VARIABLE] = kept
    seen = {line.partition("\t")[0] for line in own.read_text().splitlines()} if own.exists() else set()
    assert seen == set(marker.args), "the simulator objected to these rules; the test says that it breaks others"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "breaks_rules(*rules): breaks these rules of a simulated runtime on purpose")
    open_journal()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if violations():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if lines := violations():
        terminalreporter.section("rules of vendors' runtimes that were broken", red=True)
        for line, times in Counter(lines).most_common():
            terminalreporter.write_line(f"{line}{f' ({times} times)' if times > 1 else ''}", red=True)


def pytest_unconfigure() -> None:
    if _own_directory is not None:
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(_own_directory, ignore_errors=True)
