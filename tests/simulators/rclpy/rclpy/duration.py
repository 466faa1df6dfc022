"""``rclpy.duration``."""

from __future__ import annotations

from functools import total_ordering


@total_ordering
class Duration:
    def __init__(self, *, seconds=0, nanoseconds=0):
        total = int(seconds * 10**9) + int(nanoseconds)
        if not -(2**63) <= total < 2**63:
            raise OverflowError("Total nanoseconds value is too large to store in C duration.")
        self.nanoseconds = total

    def __eq__(self, other):
        return self.nanoseconds == other.nanoseconds if isinstance(other, Duration) else NotImplemented

    def __lt__(self, other):
        return self.nanoseconds < other.nanoseconds if isinstance(other, Duration) else NotImplemented

    __hash__ = None


Infinite = Duration(nanoseconds=2**63 - 1)
