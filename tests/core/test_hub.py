"""Policies by their hub name: from the hub's cache without a network, and told apart from a misspelt directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_service.core.errors import PolicyFolderError
from inference_service.core.hub import is_hub_id
from inference_service.core.policy_folder import PolicyFolder
from tests.policies import make_plain_folder

LOAD = (
    "import sys; from inference_service.core.policy_folder import PolicyFolder; "
    "print(PolicyFolder.load(sys.argv[1]).path)"
)


def load_offline(name: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Settings of the hub's library are read when it is imported."""
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", LOAD, name], env=env, capture_output=True, text=True, timeout=60)


def test_a_policy_in_the_hubs_cache_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--acme--so101_act"
    make_plain_folder(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for name in ("acme/so101_act", "acme/so101_act@main"):
        done = load_offline(name, tmp_path)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).name == revision


def test_what_is_neither_here_nor_in_the_cache_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    done = load_offline("acme/another", tmp_path)
    assert done.returncode == 1
    assert "PolicyFolderError: acme/another: no such directory, and it could not be fetched from the hub" in done.stderr
    assert "hf download acme/another --local-dir DIR" in done.stderr


def test_without_the_hubs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PolicyFolderError, match=r"acme/so101_act: no such directory\. .*pip install huggingface_hub"):
        PolicyFolder.load("acme/so101_act")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("acme/so101_act", True),
        ("acme/so101_act@v1.0", True),
        ("so101_act", False),
        ("./acme/so101_act", False),
        ("/acme/so101_act", False),
        ("../acme", False),
        ("a/b/c", False),
        ("tests/misspelt", False),
        ("acme/", False),
    ],
)
def test_what_may_be_a_hub_id(path: str, expected: bool) -> None:
    assert is_hub_id(path) == expected
