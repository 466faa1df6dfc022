"""Pictures through shared memory, from a device node to an engine node on one machine; in messages where it is not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_service.nodes.policy_node import PolicyNode, PolicyParameters
from inference_service.transport import create_node
from inference_service.wire.variants import from_variants
from tests.nodes.engine_rig import start_engine
from tests.nodes.harness import POLICY, ROBOT, Dispatching, StandInRobot

USED = "Pictures go to the engine through shared memory"


@pytest.fixture
def opened(domain_id: int) -> Iterator[list[Any]]:
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


def start(opened: list[Any], engine_directory: Path | str, device_directory: Path | str) -> Dispatching:
    robot, dispatching = StandInRobot(), Dispatching()
    opened.extend([robot.node, dispatching.node])
    opened.extend(start_engine(POLICY, shared_memory=str(engine_directory)))
    node = create_node("act_inference_node")
    parameters = PolicyParameters(
        checkpoint=str(POLICY),
        robot_config_path=str(ROBOT),
        execution_mode="distributed",
        shared_memory=str(device_directory),
    )
    opened.extend([node, PolicyNode(node, parameters)])
    return dispatching


def actions(result: Any) -> np.ndarray:
    return from_variants(result.action_chunk)["action"]


def rings(directory: Path) -> list[Path]:
    """Large files: the beacon is a small one."""
    return [path for path in directory.iterdir() if path.stat().st_size > 4096]


def test_where_both_see_it_pictures_go_through_it(opened: list[Any], tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    dispatching = start(opened, tmp_path, tmp_path)
    shared = actions(dispatching.infer_until_ok())
    assert USED in caplog.text
    (ring,) = rings(tmp_path)
    before = ring.read_bytes()
    dispatching.infer_until_ok()
    assert ring.read_bytes() != before, "the next request went through it too"
    assert shared.shape == (50, 6) and np.isfinite(shared).all()


def test_nothing_is_left_behind(opened: list[Any], tmp_path: Path) -> None:
    start(opened, tmp_path, tmp_path).infer_until_ok()
    assert len(list(tmp_path.iterdir())) == 2
    while opened:
        opened.pop().close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine, device", [("here", "there"), ("", "here")])
def test_elsewhere_they_travel_in_messages(opened: list[Any], tmp_path: Path, caplog: Any, engine, device) -> None:
    caplog.set_level(logging.INFO)
    directories = {name: tmp_path / name for name in ("here", "there")}
    for path in directories.values():
        path.mkdir()
    dispatching = start(opened, *(directories.get(name, name and tmp_path / name) for name in (engine, device)))
    assert actions(dispatching.infer_until_ok()).shape == (50, 6)
    assert USED not in caplog.text
    assert not any(rings(path) for path in directories.values())


def test_an_engine_that_cannot_read_it_gets_messages_after_one_refusal(
    opened: list[Any], tmp_path: Path, caplog: Any
) -> None:
    dispatching = start(opened, tmp_path, tmp_path)
    device: PolicyNode = opened[-1]
    dispatching.infer_until_ok()
    ring = device._runner._client._memory._ring  # type: ignore[union-attr]
    ring._write = lambda large: [  # type: ignore[union-attr, method-assign]
        type(tensor)(**{**vars(tensor), "turn": tensor.turn + 1}) for tensor in type(ring)._write(ring, large)
    ]
    _, result = dispatching.infer()
    assert not result.success and "overwritten in shared memory" in result.message
    assert dispatching.infer()[1].success
    assert "Shared memory given up" in caplog.text
    assert not rings(tmp_path)
