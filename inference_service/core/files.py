"""Reading a policy's files: bounded, without executing anything, every error naming file, key and fix."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from inference_service.core.errors import PolicyFolderError

MAX_JSON_BYTES = 4 * 2**20
MAX_STATE_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 32 * 2**20
_COPY_BYTES = 2**20

# https://github.com/huggingface/safetensors#format; BF16 has no numpy type and is widened to float32.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}

_SIZES = {"BF16": 2} | {name: np.dtype(dtype).itemsize for name, dtype in _DTYPES.items()}

T = TypeVar("T")


def read_bytes(path: Path, limit: int) -> bytes:
    """The file's bytes, at most ``limit`` of them.

    Raises:
        PolicyFolderError: missing, not a readable file, or larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise PolicyFolderError(f"{path}: no such file; copy the whole policy folder, not only a part") from error
    except OSError as error:
        raise PolicyFolderError(f"{path}: cannot be read ({error.strerror}); check its type and permissions") from error
    if len(data) > limit:
        raise PolicyFolderError(f"{path}: larger than {limit} bytes, which no file of this kind needs; is it another?")
    return data


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        PolicyFolderError: missing, too large, not UTF-8, not JSON or not an object.
    """
    data = read_bytes(path, MAX_JSON_BYTES)
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PolicyFolderError(f"{path}: not valid JSON ({error}); save the policy again") from error
    if not isinstance(value, dict):
        raise PolicyFolderError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def get(mapping: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """``mapping[key]``, which must be a ``kind`` (a bool is not an int here); ``where`` is file and outer key.

    Raises:
        PolicyFolderError: absent or of another type.
    """
    if key not in mapping:
        raise PolicyFolderError(f"{where}: key '{key}' is missing; save the policy again with LeRobot")
    return check(mapping[key], kind, f"{where}: key '{key}'")


def check(value: Any, kind: type[T], where: str) -> T:
    """``value``, which must be a ``kind``; ``where`` names it.

    Raises:
        PolicyFolderError: it is of another type.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PolicyFolderError(f"{where} must be a {kind.__name__}, found {value!r:.80}")
    return value


def plain_name(name: Any, where: str) -> str:
    """``name``, which must name a file or directory beside another: a policy must not point outside its own.

    Raises:
        PolicyFolderError: it has a path in it, or is no name.
    """
    if check(name, str, where) in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise PolicyFolderError(f"{where}: {name!r:.80} must be the plain name of a file beside it")
    return str(name)


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a small safetensors file, in the file's own dtypes, BF16 as float32.

    Raises:
        PolicyFolderError: missing, too large, corrupt, or a dtype that numpy does not have.
    """
    data = read_bytes(path, MAX_STATE_BYTES)
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise PolicyFolderError(f"{path}: corrupt ({error}); copy it again from where the policy was saved") from error
    return {name: _array(path, name, entry) for name, entry in entries}


def _array(path: Path, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if dtype != "BF16" and dtype not in _DTYPES:
        raise PolicyFolderError(f"{path}: tensor '{name}' has dtype {dtype}; save it as float32")
    values: NDArray[Any] = np.frombuffer(data, _DTYPES.get(dtype, "<u2"))
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    array: NDArray[Any] = values.reshape(shape)
    return array


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file of any size: reads its header only.

    Raises:
        PolicyFolderError: missing or corrupt.
    """
    return list(_header(path)[0])


def read_some_tensors(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The small tensors ``names`` out of a safetensors file of any size, BF16 as float32. Names not there are left out.

    Raises:
        PolicyFolderError: missing, corrupt, or a tensor that is large or of a dtype that numpy does not have.
    """
    header, start = _header(path)
    found = {}
    with path.open("rb") as file:
        for name in names:
            if name in header:
                entry = check(header[name], dict, f"{path}: tensor '{name}'")
                found[name] = _array(path, name, dict(entry) | {"data": _data(path, name, entry, file, start)})
    return found


def copy_tensors(path: Path, target: Path, leave_out: tuple[str, ...]) -> None:
    """Write the safetensors file ``path`` to ``target`` without tensors whose names start with one of ``leave_out``,
    piece by piece: it may be larger than the memory.

    Raises:
        PolicyFolderError: missing or corrupt.
    """
    header, start = _header(path)
    entries = {name: check(entry, dict, f"{path}: tensor '{name}'") for name, entry in header.items()}
    kept = {name: dict(entry) for name, entry in entries.items() if not name.startswith(leave_out)}
    ranges, end = [], 0
    for name, entry in kept.items():
        first, last = _range(path, name, entry)
        ranges.append((start + first, last - first))
        entry["data_offsets"] = [end, end := end + last - first]
    text = json.dumps(kept | {"__metadata__": {"format": "pt"}}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb") as source, target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for offset, size in ranges:
            source.seek(offset)
            _copy(source, file, size, path)


def _copy(source: BinaryIO, target: BinaryIO, size: int, path: Path) -> None:
    while size:
        piece = source.read(min(size, _COPY_BYTES))
        if not piece:
            raise PolicyFolderError(f"{path}: cut off; copy it again from where the policy was saved")
        target.write(piece)
        size -= len(piece)


def _range(path: Path, name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Where the tensor's bytes begin and end, from the start of the data."""
    where = f"{path}: tensor '{name}'"
    offsets = [check(offset, int, where) for offset in get(entry, "data_offsets", list, where)]
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise PolicyFolderError(f"{where}: corrupt; copy the file again from where the policy was saved")
    return offsets[0], offsets[1]


def _data(path: Path, name: str, entry: Mapping[str, Any], file: BinaryIO, start: int) -> bytes:
    where = f"{path}: tensor '{name}'"
    shape = get(entry, "shape", list, where)
    first, last = _range(path, name, entry)
    size = _SIZES.get(get(entry, "dtype", str, where), 0) * math.prod(check(n, int, where) for n in shape)
    if last - first != size:
        raise PolicyFolderError(f"{where}: corrupt; copy the file again from where the policy was saved")
    if size > MAX_STATE_BYTES:
        raise PolicyFolderError(f"{where}: has {size} bytes, more than statistics need")
    file.seek(start + first)
    data = file.read(size)
    if len(data) != size:
        raise PolicyFolderError(f"{path}: cut off; copy it again from where the policy was saved")
    return data


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors' entries by name, and where the data starts."""
    start = read_head(path, 8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise PolicyFolderError(f"{path}: not a safetensors file; copy it again from where the policy was saved")
    try:
        header = json.loads(read_head(path, 8 + length)[8:].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PolicyFolderError(f"{path}: corrupt header ({error}); copy it again") from error
    entries = check(header, dict, f"{path}: header")
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}, 8 + length


def read_head(path: Path, size: int) -> bytes:
    """The first ``size`` bytes of ``path``, fewer when it is shorter."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise PolicyFolderError(f"{path}: cannot be read ({error.strerror})") from error
