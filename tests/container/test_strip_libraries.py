"""What strip would break is left as it is."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docker/strip_libraries.py"
spec = importlib.util.spec_from_file_location("strip_libraries", SCRIPT)
assert spec is not None and spec.loader is not None
strip_libraries = importlib.util.module_from_spec(spec)
spec.loader.exec_module(strip_libraries)


def _library(offset: int, address: int, alignment: int) -> bytes:
    """A 64-bit ELF file of one part to load, at ``offset`` in the file and ``address`` in memory."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 1, 5, offset, address, address, 0, 0, alignment)


@pytest.mark.parametrize(
    ("offset", "address", "fine"), [(0, 0, True), (0x1F000, 0x2F000, True), (0x1F000, 0x20000, False)]
)
def test_parts_lie_where_the_loader_can_map_them(offset: int, address: int, fine: bool) -> None:
    """By pages of 64 KiB, as on arm64."""
    assert strip_libraries.loadable(_library(offset, address, 0x10000)) is fine


@pytest.mark.parametrize("result", ["misaligned", "refused", "fine"])
def test_a_library_is_replaced_only_by_one_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    """With a strip that moves parts as binutils' does on arm64, one that refuses, and one that works."""
    before, after = _library(0, 0, 0x10000), _library(0x100, 0 if result == "misaligned" else 0x100, 0x10000)
    (tmp_path / "after").write_bytes(after)
    tool = tmp_path / "bin" / "strip"
    tool.parent.mkdir()
    ending = "exit 1" if result == "refused" else f'cp "{tmp_path}/after" "$3"'
    tool.write_text(f"#!/bin/sh\n{ending}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")
    library = tmp_path / "libx.so.1"
    library.write_bytes(before)
    library.chmod(0o755)
    assert strip_libraries.strip(library) is (result == "fine")
    assert library.read_bytes() == (after if result == "fine" else before)
    assert library.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "bin", "libx.so.1"]
