"""Where the ``ros`` transport runs in the tests: real rclpy where it can be imported, else the simulator."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parent
_SPEC = importlib.util.find_spec("rclpy")
REAL = _SPEC is not None and _SPEC.origin is not None
SEARCH_PATH = () if REAL else (str(FOLDER),)
"""What another process needs on its path to run the ``ros`` transport as this one does."""
# Messages of iron and later check their fields only when asked to, and let a misspelt one pass.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"


def _forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "rclpy" or name.startswith("inference_service.transport.ros."):
            del sys.modules[name]


@contextmanager
def rclpy_importable() -> Iterator[None]:
    """Within it ``import rclpy`` works. What the simulator brought is gone afterwards, so that nothing takes this
    process for one with ROS installed."""
    if REAL or str(FOLDER) in sys.path:
        yield
        return
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        interfaces = sys.modules.get("rclpy.interfaces")
        if interfaces is not None:
            interfaces.uninstall()
        _forget()
