"""A rule that a simulator saw broken fails the run, whichever process it was in and whether or not a test looked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import suite_journal
from tests.simulators.rknnlite.rig import LIBRARY
from tests.simulators.sd3403.rig import WORKER

ROOT = Path(__file__).resolve().parents[1]

BREAKING = {
    "acl 3": "import acl; acl.finalize(); acl.finalize()",
    "rknnlite load": "from rknnlite.api import RKNNLite; RKNNLite().load_rknn('/nowhere.rknn')",
    "sd3403 header": "import worker; worker.Rules(Path('.'), []).breach('header', 'magic 0x0')",
}
TESTS = """
import os, signal, subprocess, sys
import pytest

PROGRAM = '''
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
os.environ["RKNN_SIM"] = "."
{breaking}
os.kill(os.getpid(), signal.SIGKILL)
'''

def broken():
    assert subprocess.run([sys.executable, "-c", PROGRAM], timeout=60).returncode == -signal.SIGKILL

def test_that_looks_nowhere():
    broken()

@pytest.mark.breaks_rules({rule!r})
def test_on_purpose():
    broken()

@pytest.mark.breaks_rules("acl 4", {rule!r})
def test_that_says_more_than_it_does():
    broken()

def test_of_something_else():
    pass
"""


@pytest.fixture(params=BREAKING)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    paths = [str(ROOT / "tests" / "simulators"), str(LIBRARY), str(WORKER.parent)]
    (tmp_path / "test_inner.py").write_text(
        TESTS.format(paths=paths, rule=request.param, breaking=BREAKING[request.param])
    )
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest of its own, with a journal of its own."""
    inherited = {k: v for k, v in os.environ.items() if k != suite_journal.VARIABLE and not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "tests.suite_journal", "-p", "no:cacheprovider", "-c", os.devnull]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(folder / "test_inner.py"), *words],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_violation_in_a_process_that_was_killed_fails_the_run(folder: Path) -> None:
    done = run(folder, "-k", "not says_more")
    assert done.returncode == 1, done.stdout
    assert "3 passed" in done.stdout and "test_that_looks_nowhere" in done.stdout.partition("that were broken")[2]
    assert "test_on_purpose" not in done.stdout.partition("that were broken")[2]


def test_a_choice_of_tests_is_judged_as_the_whole_is(folder: Path) -> None:
    assert run(folder, "-k", "looks_nowhere").returncode == 1
    assert run(folder, "-k", "on_purpose or something_else").returncode == 0


def test_who_breaks_rules_on_purpose_names_them(folder: Path) -> None:
    done = run(folder, "-k", "says_more")
    assert done.returncode == 1 and "'acl 4'" in done.stdout


def test_this_run_is_judged_too(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.hasplugin("tests.suite_journal")
    assert os.environ[suite_journal.VARIABLE]
