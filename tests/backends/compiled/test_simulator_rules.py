"""Every rule that a simulator keeps has a test that breaks it on purpose, and every fault that it can inject one that
does. A rule that is added without its test, or a test that is dropped, is seen here.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
SIMULATORS = HERE.parents[1] / "simulators"

# simulator: (where its RULES stand, where they are kept, the tests that break them)
SOURCES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "acl": (
        "acl/state.py",
        ("acl/core.py", "acl/mdl.py", "acl/rt.py", "acl/state.py", "acl/util.py"),
        "test_acl_simulator.py",
    ),
    "rknnlite": ("rknnlite/rknnlite/api.py", ("rknnlite/rknnlite/api.py",), "test_rknn_simulator.py"),
    "sd3403": ("sd3403/worker.py", ("sd3403/worker.py",), "test_sd3403_simulator.py"),
}
# How a source says which rule is broken.
_KEPT = {
    "acl": r"(?:rule=|violation\()(\d+)",
    "rknnlite": r'_breach\(\s*"([^"]+)"',
    "sd3403": r'\.breach\(\s*"([^"]+)"',
}
# Rules of tables A.9 and B.4 by number, those that break nothing among them.
NUMBERED = {"test_acl_simulator.py": 21, "test_rknn_simulator.py": 15}


def read(*parts: str) -> str:
    return Path(HERE if len(parts) == 1 else SIMULATORS, *parts).read_text()


def listed(simulator: str) -> dict[str, str]:
    """RULES of a simulator, read without importing it."""
    for node in ast.parse(read("", SOURCES[simulator][0])).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["RULES"]:
            return {str(key): sentence for key, sentence in ast.literal_eval(node.value).items()}
    raise AssertionError(f"{simulator} has no RULES")


@pytest.mark.parametrize("simulator", SOURCES)
def test_every_rule_that_is_kept_is_listed(simulator: str) -> None:
    kept = {rule for file in SOURCES[simulator][1] for rule in re.findall(_KEPT[simulator], read("", file))}
    assert kept - {"0"} == set(listed(simulator))


def marks_of(module: ModuleType) -> Iterator[pytest.Mark]:
    """Of every test in it, those of single parameters too."""
    for function in vars(module).values():
        for mark in getattr(function, "pytestmark", ()):
            yield mark
            if mark.name == "parametrize":
                for parameter in mark.args[1]:
                    yield from (one.mark for one in getattr(parameter, "marks", ()))


@pytest.mark.parametrize("simulator", SOURCES)
def test_every_listed_rule_is_broken_by_a_test_that_names_it(simulator: str) -> None:
    """Whether the simulator then objects, and to nothing else, is looked after where the tests run (suite_journal)."""
    module = importlib.import_module(SOURCES[simulator][2].removesuffix(".py"))
    named = {rule for mark in marks_of(module) if mark.name == "breaks_rules" for rule in mark.args}
    assert named == {f"{simulator} {rule}" for rule in listed(simulator)}


@pytest.mark.parametrize("file", NUMBERED)
def test_every_numbered_rule_is_broken_by_a_test(file: str) -> None:
    tested = {int(number) for number in re.findall(r"def test_rule_(\d+)_", read(file))}
    assert tested == set(range(1, NUMBERED[file] + 1))


def test_every_fault_of_the_worker_strikes_a_session() -> None:
    source = read("sd3403", "worker.py")
    faults = re.search(r"\nFAULTS = \((.*?)\n\)", source, re.DOTALL)
    starts = re.search(r"START_FAULTS = (.*)", source)
    assert faults and starts
    named = set(re.findall(r'"([^"]+)"', faults[1] + starts[1]))
    tests = read("test_sd3403_session.py") + read("test_sd3403.py")
    assert {fault for fault in named if f'"{fault}"' not in tests} == set()


@pytest.mark.parametrize("fault", ["none", "raise", "nan", "zeros", "shape", "stale", "slow", "fail", "core mask"])
def test_every_fault_of_rknnlite_strikes_a_session(fault: str) -> None:
    assert f'"{fault}"' in read("test_rknn_session.py") and fault in read("rknnlite", "rknnlite", "api.py")
