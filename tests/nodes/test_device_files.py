"""A device without a policy directory: its engine sends the small files, and nothing unverified is used."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_service.core.errors import EngineUnavailable, PolicyError, PolicyMismatch
from inference_service.core.policy_folder import PolicyFolder
from inference_service.nodes.device_fetching import FetchingDevice
from inference_service.nodes.device_files import PolicyFetch, cache_directory, cached, keep, wanted_fingerprint
from inference_service.nodes.engine_files import PolicyFilePublisher
from inference_service.nodes.policy_node import PolicyNode, PolicyParameters, start
from inference_service.transport import create_node
from inference_service.wire.policy_files import PolicyFiles
from tests.nodes.harness import POLICY, ROBOT, Dispatching, StandInEngine, StandInRobot, wait_until

SMALL = ("config.json", "policy_preprocessor.json", "policy_postprocessor.json")
NEVER = threading.Event()


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


@pytest.fixture
def make_node(opened: list[Any]) -> Callable[[str], Any]:
    def make(name: str) -> Any:
        opened.append(create_node(name))
        return opened[-1]

    return make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_directory()


def small_files(policy: Path = POLICY) -> dict[str, bytes]:
    names = [f.name for f in policy.iterdir() if f.name in SMALL or "processor" in f.name]
    return {name: (policy / name).read_bytes() for name in names}


def fingerprint() -> str:
    return PolicyFolder.load(POLICY).fingerprint


def test_a_policy_is_fetched_kept_and_found_again(make_node: Callable[[str], Any], cache: Path) -> None:
    PolicyFilePublisher(make_node("pure_inference"), PolicyFolder.load(POLICY), "engine-1")
    fetch = PolicyFetch(make_node("act_inference_node"), "engine://")
    folder = fetch.wait(20.0, NEVER)
    assert folder is not None and folder.path == cache / fingerprint()
    assert folder.fingerprint == fingerprint()
    assert not list(folder.path.glob("model*")), "no weights travel"
    assert [p.name for p in cache.iterdir()] == [fingerprint()], "nothing unfinished is left"
    fetch.close()
    again = PolicyFetch(make_node("another_device"), f"engine://{fingerprint()}")
    assert again.wait(0.0, NEVER) is not None, "a named policy that is kept needs no engine"
    again.close()


def test_another_policy_than_the_one_named_is_left_alone(make_node: Callable[[str], Any], cache: Path) -> None:
    PolicyFilePublisher(make_node("pure_inference"), PolicyFolder.load(POLICY), "engine-1")
    fetch = PolicyFetch(make_node("act_inference_node"), "engine://feedbeef")
    assert wait_until(lambda: "other policies are offered" in fetch.state())
    with pytest.raises(EngineUnavailable, match=fingerprint()):
        fetch.wait(0.1, NEVER)
    fetch.close()
    assert not cache.exists()


def test_without_an_engine_the_wait_ends_at_its_deadline(make_node: Callable[[str], Any], cache: Path) -> None:
    fetch = PolicyFetch(make_node("act_inference_node"), "engine://")
    with pytest.raises(EngineUnavailable, match=r"no engine offers them.*given up after 0.2 s \(fetch_timeout\)"):
        fetch.wait(0.2, NEVER)
    fetch.close()


def test_files_that_make_up_another_policy_are_refused(tmp_path: Path) -> None:
    """Fault: an engine's files do not have the fingerprint that they were sent under. Nothing of them is kept."""
    files = small_files()
    files["config.json"] = files["config.json"].replace(b'"chunk_size": 50', b'"chunk_size": 49')
    with pytest.raises(PolicyMismatch, match="make up"):
        keep(PolicyFiles(fingerprint(), files), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_policy_in_the_cache_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """Fault: somebody edited a kept file, which still makes up a policy. Expected: fetched again."""
    kept = keep(PolicyFiles(fingerprint(), small_files()), tmp_path)
    config = kept.path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"chunk_size": 50', '"chunk_size": 49'))
    assert config.read_text() != text
    assert cached(fingerprint(), tmp_path) is None
    assert keep(PolicyFiles(fingerprint(), small_files()), tmp_path).config.chunk_size == 50


def test_damaged_files_in_the_cache_are_replaced(tmp_path: Path) -> None:
    kept = keep(PolicyFiles(fingerprint(), small_files()), tmp_path)
    (kept.path / "config.json").write_text("{}")
    assert cached(fingerprint(), tmp_path) is None
    assert keep(PolicyFiles(fingerprint(), small_files()), tmp_path).fingerprint == fingerprint()
    assert cached(fingerprint(), tmp_path) is not None


@pytest.mark.parametrize("source", ["engine://FEED", "engine://" + "a" * 65, "engine:/", "engine://../x"])
def test_a_source_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(PolicyError, match="write engine://"):
        wanted_fingerprint(source)


def parameters(**changes: Any) -> PolicyParameters:
    fields = {"checkpoint": "engine://", "robot_config_path": str(ROBOT), "execution_mode": "distributed"}
    return PolicyParameters(**{**fields, **changes})


def test_a_device_without_a_policy_serves_once_its_engine_has_sent_it(
    make_node: Callable[[str], Any], opened: list[Any], cache: Path
) -> None:
    robot = StandInRobot()
    dispatching = Dispatching()
    opened.extend([robot.node, dispatching.node])
    device = start(make_node("act_inference_node"), parameters())
    assert isinstance(device, FetchingDevice)
    opened.append(device)
    assert "no engine offers them" in device._collect()[0].message and not device._collect()[0].ready
    engine = StandInEngine(lambda engine, request: engine.reply(request))
    opened.append(engine.node)
    PolicyFilePublisher(engine.node, PolicyFolder.load(POLICY), "stand-in")
    assert dispatching.infer_until_ok().chunk_size == 50
    assert engine.requests[-1].fingerprint == fingerprint()
    assert "request_timeout" in device.changeable and device.failure is None


def test_a_device_that_gets_no_policy_ends_with_the_reason(
    make_node: Callable[[str], Any], opened: list[Any], cache: Path
) -> None:
    device = start(make_node("act_inference_node"), parameters(fetch_timeout=0.2))
    opened.append(device)
    assert wait_until(lambda: device.failure is not None)
    assert "given up after 0.2 s" in str(device.failure)


def test_a_monolithic_device_cannot_fetch(make_node: Callable[[str], Any]) -> None:
    with pytest.raises(PolicyError, match="execution_mode:=distributed"):
        start(make_node("act_inference_node"), parameters(execution_mode="monolithic"))


def test_a_directory_needs_no_fetching(make_node: Callable[[str], Any], opened: list[Any], tmp_path: Path) -> None:
    copy = shutil.copytree(POLICY, tmp_path / "policy", ignore=shutil.ignore_patterns("model*"))
    device = start(make_node("act_inference_node"), parameters(checkpoint=str(copy)))
    opened.append(device)
    assert isinstance(device, PolicyNode)
