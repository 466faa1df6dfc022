"""The simulators of the vendors' runtimes, each held to its rules at the end of every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from compiled_models import SIMULATORS


@pytest.fixture
def acl_rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``acl`` from the simulator, fresh, its journal for the test to judge."""
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(SIMULATORS))
    import acl

    acl.simulator.reset()
    yield acl
    acl.simulator.reset()
    sys.modules.pop("acl", None)


@pytest.fixture
def acl(acl_rules: Any) -> Iterator[Any]:
    """``acl`` from the simulator; at the end its journal must be empty and nothing allocated."""
    yield acl_rules
    assert acl_rules.simulator.journal == []
    assert acl_rules.simulator.leaks() == []
