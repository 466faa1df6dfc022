"""Strip the shared libraries below the working directory: symbols are of no use to a running node.

Usage: python3 strip_libraries.py [directory to leave alone …]

What strip would break stays as it is: the maker of a wheel patches the libraries that it brings, strip moves their
parts, and the loader refuses what is not aligned any more (seen on arm64: numpy's OpenBLAS).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

_LOAD = 1


def loadable(library: bytes) -> bool:
    """Whether every part of a 64-bit little-endian ELF file lies where the loader can map it."""
    (table,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    for index in range(count):
        kind, _, offset, address, *_, alignment = struct.unpack_from("<IIQQQQQQ", library, table + index * size)
        if kind == _LOAD and alignment > 1 and (address - offset) % alignment:
            return False
    return True


def strip(library: Path) -> bool:
    """Strip one file, or leave it as it is; whether it was stripped."""
    smaller = library.with_name(f"{library.name}.stripped")
    done = subprocess.run(["strip", "--strip-unneeded", "-o", smaller, library], capture_output=True, check=False)
    fine = done.returncode == 0 and loadable(smaller.read_bytes())
    if fine:
        shutil.copymode(library, smaller)
        smaller.replace(library)
    else:
        smaller.unlink(missing_ok=True)
    return fine


def main(left_alone: list[str]) -> None:
    for library in sorted(Path().rglob("*.so*")):
        if library.is_symlink() or not library.is_file() or library.parts[0] in left_alone:
            continue
        if library.read_bytes()[:6] == b"\x7fELF\x02\x01" and not strip(library):
            sys.stdout.write(f"not stripped: {library}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
