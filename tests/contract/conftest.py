"""Says on what the ``ros`` transport ran."""

from __future__ import annotations

from typing import Any

from tests.simulators.rclpy.rig import REAL


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    if any("[ros" in one.nodeid for one in reports):
        on = (
            "rclpy itself"
            if REAL
            else "a SIMULATOR of rclpy (tests/simulators/rclpy): real rclpy is not installed here"
        )
        terminalreporter.write_line(f"transport ros: tested on {on}")
