"""``rclpy.qos``: profiles that check what they are given."""

from __future__ import annotations

import warnings
from enum import IntEnum

from inference_service.transport.protocol import QoS
from rclpy.duration import Duration, Infinite


class QoSPolicyKind(IntEnum):
    INVALID = 1
    DURABILITY = 2
    DEADLINE = 4
    LIVELINESS = 8
    RELIABILITY = 16
    HISTORY = 32
    LIFESPAN = 64
    DEPTH = 128
    LIVELINESS_LEASE_DURATION = 256
    AVOID_ROS_NAMESPACE_CONVENTIONS = 512


def qos_policy_name_from_kind(policy_kind):
    return QoSPolicyKind(policy_kind).name


class HistoryPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3


class DurabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3


class InvalidQoSProfileException(Exception):
    def __init__(self, *args):
        super().__init__("Invalid QoSProfile", *args)


_DEFAULTS = {
    "history": HistoryPolicy.KEEP_LAST,
    "depth": 10,
    "reliability": ReliabilityPolicy.RELIABLE,
    "durability": DurabilityPolicy.VOLATILE,
    "lifespan": Infinite,
    "deadline": Infinite,
}
_TYPES = {
    "history": HistoryPolicy,
    "depth": int,
    "reliability": ReliabilityPolicy,
    "durability": DurabilityPolicy,
    "lifespan": Duration,
    "deadline": Duration,
}


class QoSProfile:
    def __init__(self, **kwargs):
        assert kwargs.keys() <= _DEFAULTS.keys(), f"Invalid arguments passed to constructor: {list(kwargs)}"
        if "history" not in kwargs and "depth" not in kwargs:
            raise InvalidQoSProfileException("History and/or depth settings are required.")
        if kwargs.get("history", HistoryPolicy.KEEP_LAST) == HistoryPolicy.KEEP_LAST and "depth" not in kwargs:
            raise InvalidQoSProfileException("History set to KEEP_LAST without a depth setting.")
        for name, value in {**_DEFAULTS, **kwargs}.items():
            assert isinstance(value, (_TYPES[name], int)) and not isinstance(value, bool), f"{name}: {value!r}"
            assert not (_TYPES[name] is Duration and isinstance(value, int)), f"{name}: {value!r} is no Duration"
            setattr(self, name, value if isinstance(value, Duration) else _TYPES[name](value))
        if self.history == HistoryPolicy.KEEP_LAST and self.depth == 0:
            warnings.warn("A zero depth with KEEP_LAST doesn't make sense; no data could be stored.", stacklevel=2)


def dds_qos(profile):
    """Not of rclpy: the profile as the middleware takes it."""
    return QoS(
        depth=profile.depth,
        reliability="reliable" if profile.reliability == ReliabilityPolicy.RELIABLE else "best_effort",
        durability="transient_local" if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
        lifespan_s=None if profile.lifespan == Infinite else profile.lifespan.nanoseconds / 1e9,
    )
