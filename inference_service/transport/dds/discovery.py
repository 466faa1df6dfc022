"""What DDS discovery knows, read by one thread at a time."""

from __future__ import annotations

import threading
from typing import Any

from cyclonedds.builtin import BuiltinDataReader

# cyclonedds-python reads each QoS policy through buffers that belong to its class (`qos._CQos`): two threads that take
# at once mix their answers up, and free the same memory twice.
_lock = threading.Lock()


def take_discovered(reader: BuiltinDataReader, limit: int) -> list[Any]:
    """At most ``limit`` samples of a built-in topic. Raises DDSException once the reader is closed."""
    with _lock:
        samples: list[Any] = reader.take(limit)
        return samples
