"""``rclpy.clock``: time that jumps tells those who asked."""

from __future__ import annotations

import time
from enum import IntEnum
from types import SimpleNamespace

from rclpy._rclpy_pybind11 import ClockChange
from rclpy.duration import Duration


class ClockType(IntEnum):
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


class JumpThreshold:
    def __init__(self, *, min_forward, min_backward, on_clock_change=True):
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError("min_forward must be a positive non-zero duration")
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError("min_backward must be a negative non-zero duration")
        if min_forward is None and min_backward is None and not on_clock_change:
            raise ValueError("At least one jump threshold must be enabled")
        self.min_forward, self.min_backward, self.on_clock_change = min_forward, min_backward, on_clock_change


class TimeJump:
    def __init__(self, clock_change, delta):
        self.clock_change, self.delta = clock_change, delta


class JumpHandle:
    def __init__(self, clock, threshold, pre_callback, post_callback):
        if pre_callback is None and post_callback is None:
            raise ValueError("One of pre_callback or post_callback must be callable")
        self.threshold, self.pre_callback, self.post_callback = threshold, pre_callback, post_callback
        self._clock = clock
        clock.handles.append(self)

    def unregister(self):
        if self._clock is not None:
            self._clock.handles.remove(self)
            self._clock = None


class ROSClock:
    def __init__(self):
        self.handles = []
        self._override_ns = None

    def now(self):
        nanoseconds = time.time_ns() if self._override_ns is None else self._override_ns
        return SimpleNamespace(nanoseconds=nanoseconds, clock_type=ClockType.ROS_TIME)

    def create_jump_callback(self, threshold, *, pre_callback=None, post_callback=None):
        return JumpHandle(self, threshold, pre_callback, post_callback)

    def activate(self):
        """Not of rclpy, whose time source does it: ROS time is zero until the first ``/clock``."""
        self._override_ns = 0

    def set_override(self, nanoseconds):
        """Not of rclpy, likewise. On the executor's thread."""
        jump = TimeJump(ClockChange.ROS_TIME_NO_CHANGE, Duration(nanoseconds=nanoseconds - self._override_ns))
        told = [handle for handle in list(self.handles) if _exceeds(jump.delta.nanoseconds, handle.threshold)]
        for handle in told:
            if handle.pre_callback is not None:
                handle.pre_callback()
        self._override_ns = nanoseconds
        for handle in told:
            if handle.post_callback is not None:
                handle.post_callback(jump)


def _exceeds(delta_ns, threshold):
    forward, backward = threshold.min_forward, threshold.min_backward
    return (forward is not None and delta_ns >= forward.nanoseconds > 0) or (
        backward is not None and delta_ns <= backward.nanoseconds < 0
    )
