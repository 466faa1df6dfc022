"""Parameters of a dispatcher that dispatches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.nodes.dispatcher_parameters import Order
from tests.nodes.test_dispatcher_node import ARM, World, device, dispatcher, robot_file, wait_for, world

__all__ = ["robot_file", "world"]  # fixtures


def test_values_in_force_are_read_and_set_and_refused(world: World, robot_file: Callable[..., Path]) -> None:
    with device(world) as standing_in, dispatcher(world, robot_file()) as app:
        wait_for(lambda: world.commands[ARM], "commands")
        known = app.changeable
        assert {
            name: known[name].get() for name in ("watermark_threshold", "control_frequency", "request_timeout")
        } == {
            "watermark_threshold": 40,
            "control_frequency": 20.0,
            "request_timeout": 5.0,
        }
        known["watermark_threshold"].set(5)
        known["request_timeout"].set(2.5)
        known["temporal_smoothing_enabled"].set(True)
        known["prompt"].set("pick the cube")
        wait_for(lambda: world.smoothing and world.smoothing[-1], "smoothing to be on")
        wait_for(lambda: standing_in.goals[-1].request.prompt == "pick the cube", "the new prompt")
        wait_for(lambda: world.ticks[-1] < 20, "the queue to run lower than before")
        assert (known["watermark_threshold"].get(), known["request_timeout"].get()) == (5, 2.5)
        with pytest.raises(ValueError, match="watermark -1"):
            known["watermark_threshold"].set(-1)
        with pytest.raises(ValueError, match="control_frequency nan"):
            known["control_frequency"].set(float("nan"))
        assert known["watermark_threshold"].get() == 5


def test_another_control_frequency_ticks_at_it_and_starts_anew(
    world: World,
    robot_file: Callable[..., Path],
) -> None:
    with device(world), dispatcher(world, robot_file()) as app:
        wait_for(lambda: world.commands[ARM], "commands")
        app.changeable["control_frequency"].set(40.0)
        assert app.changeable["control_frequency"].get() == 40.0
        heard = len(world.commands[ARM])
        wait_for(lambda: len(world.commands[ARM]) > heard + 20, "commands at the new rate")
        wait_for(lambda: float(world.value("tick_period_ms")) == 25.0, "the new period in the status")
        assert float(world.value("tick_p50_ms")) < 45
        wait_for(lambda: world.levels()[-1] == 1, "a warning that the policy was trained at another rate")


def test_an_order_that_was_given_up_is_not_carried_out_later() -> None:
    done: list[int] = []
    order = Order(lambda: done.append(1))
    with pytest.raises(ValueError, match="not taken it up"):
        order.wait(0.01)
    order()
    assert done == []


def test_an_order_reports_what_the_change_raised() -> None:
    def refuse() -> None:
        raise ValueError("no")

    order = Order(refuse)
    thread = threading.Thread(target=lambda: (time.sleep(0.01), order()))
    thread.start()
    with pytest.raises(ValueError, match="no"):
        order.wait(5.0)
    thread.join()
