"""The compiled loop over a picture's bytes (``native/pixels.c``), where the installation has built it.

It is optional: without a C compiler at installation there is none, and numpy does the same, bit for bit, at about half
the speed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent / "native" / "pixels.abi3.so"
_SYMBOL = "inference_service_planes_1"

# (pixels, stride, tables, planes, plane, rows, columns, channels): pointers as addresses; see native/pixels.c.
PlanesKernel = Callable[[int, int, int, int, int, int, int, int], Any]


def load(library: Path = LIBRARY) -> PlanesKernel | None:
    """The function in ``library``; None where that was not built, or from another version of its source."""
    try:
        kernel: Any = getattr(ctypes.CDLL(str(library)), _SYMBOL)
    except (OSError, AttributeError):
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    kernel.argtypes = (pointer, ctypes.c_ssize_t, pointer, pointer, ctypes.c_ssize_t, size, size, size)
    kernel.restype = None
    return kernel  # type: ignore[no-any-return]
