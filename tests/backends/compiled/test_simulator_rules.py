"""Every rule that a simulator keeps has a test that breaks it on purpose, and every fault that it can inject one that
does. A rule that is added without its test, or a test that is dropped, is seen here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SIMULATORS = HERE.parents[1] / "simulators"

# How many rules pyACL and RKNNLite have by number.
NUMBERED = {"test_acl_simulator.py": 20, "test_rknn_simulator.py": 15}


def read(*parts: str) -> str:
    return Path(HERE if len(parts) == 1 else SIMULATORS, *parts).read_text()


@pytest.mark.parametrize("file", NUMBERED)
def test_every_numbered_rule_is_broken_by_a_test(file: str) -> None:
    tested = {int(number) for number in re.findall(r"def test_rule_(\d+)_", read(file))}
    assert tested == set(range(1, NUMBERED[file] + 1))


def test_every_rule_in_the_source_of_acl_is_seen_in_a_journal() -> None:
    source = "".join(read("acl", name) for name in ("core.py", "mdl.py", "rt.py", "state.py", "util.py"))
    kept = {int(number) for number in re.findall(r"(?:rule=|violation\()(\d+)", source)}
    seen = {
        int(n)
        for row in re.findall(r"rules\([\w.]+\)+ == [\[{]([\d, ]+)[\]}]", read("test_acl_simulator.py"))
        for n in row.split(",")
    }
    assert kept - {0} == seen


def test_every_rule_in_the_source_of_rknnlite_is_seen_in_a_journal() -> None:
    kept = set(re.findall(r'_breach\(\s*"([^"]+)"', read("rknnlite", "rknnlite", "api.py")))
    tests = read("test_rknn_simulator.py")
    assert {rule for rule in kept if f'"{rule}"' not in tests} == set()


def test_every_rule_in_the_source_of_the_worker_is_seen_in_a_journal() -> None:
    kept = set(re.findall(r'\.breach\(\s*"([^"]+)"', read("sd3403", "worker.py")))
    tests = read("test_sd3403_simulator.py")
    assert len(kept) >= 7 and {rule for rule in kept if f'"{rule}"' not in tests} == set()


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
