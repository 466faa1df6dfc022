"""``rclpy.guard_condition``."""

from __future__ import annotations

from rclpy._rclpy_pybind11 import Destroyable


class GuardCondition:
    def __init__(self, callback, callback_group, wake):
        self.callback = callback
        self.callback_group = callback_group
        self.handle = Destroyable()
        self.triggered = False
        self._wake = wake

    def trigger(self):
        with self.handle:
            self.triggered = True
            self._wake()

    def destroy(self):
        self.handle.destroy_when_not_in_use()
