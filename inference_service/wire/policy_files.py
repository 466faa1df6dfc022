"""The small files of a policy on their way from an engine to its devices: all but the weights, in parts.

A set of files travels on ``/inference/policy`` as messages that a late subscriber gets too (transient local). The
files stand one after the other, and the whole is cut into parts of ``PART_BYTES``. Each part is a VariantsList:

======================  ==============  ================================================================
key                     type            meaning
======================  ==============  ================================================================
``policy.fingerprint``  string_array    of the policy that the files make up
``policy.engine_id``    string_array    who sends them
``policy.manifest``     string_array    one JSON object a file, in order: ``name``, ``size``, ``sha256``
``policy.part``         int_64_array    which part this is, from 0, and how many there are
``policy.data``         int_32_array    the part's bytes, zero-padded to a multiple of 4
======================  ==============  ================================================================

A name is that of a file, or of one in a directory beside it: one slash at most, no dots in front. Nothing that comes
from here is executed; who receives it computes the fingerprint anew before using it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_service.core.errors import MalformedMessage
from inference_service.wire.fields import one_string, present
from inference_service.wire.variants import Entry, from_variants, to_variants

POLICY_TOPIC = "/inference/policy"
PART_BYTES = 512 * 1024
MAX_FILES = 64
MAX_TOTAL_BYTES = 128 * 2**20
MAX_PARTS = -(-MAX_TOTAL_BYTES // PART_BYTES)
POLICY_DEPTH = MAX_PARTS
"""Depth of the topic's publishers. A subscription takes ``SUBSCRIPTION_DEPTH``: engines share its queue."""
SUBSCRIPTION_DEPTH = 4 * MAX_PARTS
_MAX_SETS = 4
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class PolicyFiles:
    """Contents by name, and the fingerprint (64 hex digits) of the policy that they make up."""

    fingerprint: str
    files: Mapping[str, bytes]

    def write(self, directory: Path) -> None:
        """Write every file into ``directory``, which is made where it is not there. Raises OSError."""
        for name, content in self.files.items():
            path = directory / _checked_name(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def encode_policy_files(policy: PolicyFiles, engine_id: str) -> list[Any]:
    """The set as VariantsLists, one a part.

    Raises:
        MalformedMessage: too many files or bytes, none at all, or a name with a path in it.
    """
    entries = [_Entry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in policy.files.items()]
    _check_entries(entries)
    whole = b"".join(policy.files.values())
    count = _part_count(len(whole))
    return [
        to_variants(
            {
                "policy.fingerprint": [policy.fingerprint],
                "policy.engine_id": [engine_id],
                "policy.manifest": [entry.to_json() for entry in entries],
                "policy.part": np.array([number, count], np.int64),
                "policy.data": _padded(whole[number * PART_BYTES : (number + 1) * PART_BYTES]),
            }
        )
        for number in range(count)
    ]


class PolicyAssembler:
    """Puts parts together again, in whatever order and from however many engines they come.

    Not safe to use from several threads. Keeps at most four unfinished sets; the one longest untouched gives way.
    """

    def __init__(self) -> None:
        self._sets: OrderedDict[str, _Unfinished] = OrderedDict()

    def add(self, message: Any) -> PolicyFiles | None:
        """One part more; the set, once it is complete and each file's sha256 right.

        Raises:
            MalformedMessage: the part is garbled or outside the bounds, or a set's bytes are not what its manifest
                says: then all of its parts are forgotten.
        """
        part = _decode(message)
        unfinished = self._sets.setdefault(part.key, _Unfinished(part))
        self._sets.move_to_end(part.key)
        if len(self._sets) > _MAX_SETS:
            self._sets.popitem(last=False)
        unfinished.parts[part.number] = part.data
        if len(unfinished.parts) < part.count:
            return None
        del self._sets[part.key]
        return unfinished.complete()

    def progress(self, fingerprint: str | None = None) -> tuple[int, int]:
        """Parts here and parts in all of the set that is nearest to complete (of the one policy, where given)."""
        chosen = [s for s in self._sets.values() if fingerprint in (None, s.fingerprint)]
        return max(((len(s.parts), s.count) for s in chosen), key=lambda p: p[0] / p[1], default=(0, 0))


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    sha256: str

    def to_json(self) -> str:
        return json.dumps({"name": self.name, "size": self.size, "sha256": self.sha256})


@dataclass(frozen=True, eq=False)
class _Part:
    key: str
    fingerprint: str
    entries: list[_Entry]
    number: int
    count: int
    data: bytes


@dataclass(eq=False)
class _Unfinished:
    first: _Part
    parts: dict[int, bytes] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return self.first.fingerprint

    @property
    def count(self) -> int:
        return self.first.count

    def complete(self) -> PolicyFiles:
        whole = b"".join(self.parts[number] for number in range(self.count))
        files, start = {}, 0
        for entry in self.first.entries:
            data = whole[start : start + entry.size]
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise MalformedMessage(f"policy file {entry.name!r} arrived damaged: its sha256 is another")
            files[entry.name] = data
            start += entry.size
        return PolicyFiles(self.fingerprint, files)


def _decode(message: Any) -> _Part:
    entries = from_variants(message)
    manifest = present(entries, "policy.manifest")
    if not isinstance(manifest, list):
        raise MalformedMessage("'policy.manifest' is no list of strings")
    files = [_parse_entry(text) for text in manifest]
    _check_entries(files)
    fingerprint = one_string(entries, "policy.fingerprint")
    if not _DIGEST.fullmatch(fingerprint):
        raise MalformedMessage(f"'policy.fingerprint' is {fingerprint[:80]!r}, not 64 hex digits")
    number, count = _place(entries)
    total = sum(entry.size for entry in files)
    if count != _part_count(total):
        raise MalformedMessage(f"'policy.part': {count} parts for {total} bytes, expected {_part_count(total)}")
    size = min(PART_BYTES, total - number * PART_BYTES)
    key = hashlib.sha256("\n".join([fingerprint, *manifest]).encode()).hexdigest()
    return _Part(key, fingerprint, files, number, count, _data(entries, size))


def _place(entries: Mapping[str, Entry]) -> tuple[int, int]:
    values = present(entries, "policy.part")
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (2,):
        raise MalformedMessage("'policy.part' is no int64 array of two")
    number, count = int(values[0]), int(values[1])
    if not 0 <= number < count <= MAX_PARTS:
        raise MalformedMessage(f"'policy.part' is {number} of {count}, at most {MAX_PARTS} are allowed")
    return number, count


def _data(entries: Mapping[str, Entry], size: int) -> bytes:
    values = present(entries, "policy.data")
    if not isinstance(values, np.ndarray) or values.dtype != np.int32 or values.shape != ((size + 3) // 4,):
        raise MalformedMessage(f"'policy.data' is no int_32_array that holds {size} bytes")
    return values.tobytes()[:size]


def _padded(data: bytes) -> NDArray[np.int32]:
    return np.frombuffer(data + b"\0" * (-len(data) % 4), np.int32)


def _part_count(total: int) -> int:
    return -(-total // PART_BYTES)


def _parse_entry(text: str) -> _Entry:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"'policy.manifest': {text[:80]!r} is no JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != {"name", "size", "sha256"}:
        raise MalformedMessage(f"'policy.manifest': {text[:80]!r} is no object of name, size and sha256")
    name, size, digest = value["name"], value["size"], value["sha256"]
    if type(size) is not int or not 0 <= size <= MAX_TOTAL_BYTES:
        raise MalformedMessage(f"'policy.manifest': size {str(size)[:32]!r} of {str(name)[:80]!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise MalformedMessage(f"'policy.manifest': sha256 {str(digest)[:80]!r} of {str(name)[:80]!r}")
    return _Entry(_checked_name(name), size, digest)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise MalformedMessage(
            f"policy file {str(name)[:80]!r}: a name has letters, digits and ._- and one slash at most"
        )
    return name


def _check_entries(entries: list[_Entry]) -> None:
    total = sum(entry.size for entry in entries)
    if not total or len(entries) > MAX_FILES or total > MAX_TOTAL_BYTES:
        raise MalformedMessage(
            f"{len(entries)} policy files of {total} bytes in all: 1 byte to {MAX_TOTAL_BYTES} in {MAX_FILES} files"
        )
    names = [_checked_name(entry.name).lower() for entry in entries]
    if len(set(names)) != len(names):
        raise MalformedMessage("'policy.manifest' names a file twice")
