"""A policy's small files over the wire: they arrive as they were, in any order, and nothing garbled is believed."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wire_rig import over_the_wire

from inference_service.core.errors import MalformedMessage
from inference_service.wire.policy_files import (
    MAX_FILES,
    MAX_PARTS,
    MAX_TOTAL_BYTES,
    PART_BYTES,
    PolicyAssembler,
    PolicyFiles,
    encode_policy_files,
)
from inference_service.wire.variants import from_variants, to_variants

FINGERPRINT = "f00d" * 16
LARGE = np.random.default_rng(0).bytes(2 * PART_BYTES + 5)
FILES = {"config.json": b"{}", "tokenizer/tokenizer.json": LARGE, "empty.json": b"", "state.safetensors": b"\0\1\2"}


def parts(files: dict[str, bytes] = FILES, engine_id: str = "engine@1", fingerprint: str = FINGERPRINT) -> list[Any]:
    return [over_the_wire(m) for m in encode_policy_files(PolicyFiles(fingerprint, files), engine_id)]


def changed(number: int = 0, **changes: Any) -> Any:
    entries = from_variants(parts()[number])
    entries.update({f"policy.{key}": value for key, value in changes.items()})
    return over_the_wire(to_variants({key: value for key, value in entries.items() if value is not None}))


def manifest(**changes: Any) -> list[str]:
    """The manifest with the first file's entry changed."""
    first, *others = from_variants(parts()[0])["policy.manifest"]
    return [json.dumps({**json.loads(first), **changes}), *others]


def test_files_arrive_as_they_were():
    messages = parts()
    assert len(messages) == 3
    assembler = PolicyAssembler()
    answers = [assembler.add(message) for message in messages]
    assert answers[:2] == [None, None]
    arrived = answers[2]
    assert arrived is not None and arrived.fingerprint == FINGERPRINT
    assert list(arrived.files.items()) == list(FILES.items())


def test_parts_may_come_in_any_order_twice_and_from_two_engines():
    messages = [message for engine in ("a", "b") for message in parts(engine_id=engine)]
    random.Random(3).shuffle(messages)
    assembler = PolicyAssembler()
    arrived = [files for message in messages if (files := assembler.add(message))]
    assert arrived and all(dict(files.files) == FILES for files in arrived)


def test_sets_of_different_policies_are_told_apart():
    assembler, other = PolicyAssembler(), "beef" * 16
    messages = [m for pair in zip(parts(), parts(fingerprint=other), strict=True) for m in pair]
    arrived = [files for message in messages if (files := assembler.add(message))]
    assert [files.fingerprint for files in arrived] == [FINGERPRINT, other]


def test_progress_can_be_told():
    assembler = PolicyAssembler()
    assert assembler.progress() == (0, 0)
    assembler.add(parts()[1])
    assert assembler.progress() == assembler.progress(FINGERPRINT) == (1, 3)
    assert assembler.progress("beef" * 16) == (0, 0)


def test_unfinished_sets_are_bounded():
    assembler = PolicyAssembler()
    for number in range(20):
        assembler.add(parts(fingerprint=f"{number:064x}")[0])
    assert len(assembler._sets) == 4
    for message in parts(fingerprint=f"{19:064x}")[1:]:
        last = assembler.add(message)
    assert last is not None


def test_one_damaged_byte_is_noticed_and_the_set_starts_anew():
    assembler = PolicyAssembler()
    data = from_variants(parts()[1])["policy.data"].copy()
    data[100] ^= 1
    assembler.add(parts()[0])
    assembler.add(changed(1, data=data))
    with pytest.raises(MalformedMessage, match=r"tokenizer/tokenizer\.json.*damaged"):
        assembler.add(parts()[2])
    arrived = [assembler.add(message) for message in parts()]
    assert arrived[-1] is not None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../config.json",
        "a/../b",
        "a/b/c",
        ".hidden",
        "a/.hidden",
        "a\\b",
        "a\x00b",
        "a b",
        "x" * 129,
        "-/",
        "ä.json",
        "a/",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path):
    with pytest.raises(MalformedMessage, match="policy file"):
        encode_policy_files(PolicyFiles(FINGERPRINT, {name: b"x"}), "e")
    with pytest.raises(MalformedMessage, match="policy file"):
        PolicyAssembler().add(changed(manifest=manifest(name=name)))
    with pytest.raises(MalformedMessage, match="policy file"):
        PolicyFiles(FINGERPRINT, {name: b"x"}).write(tmp_path / "deep" / "down")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fingerprint": None}, "'policy.fingerprint' is missing"),
        ({"fingerprint": ["../.."]}, "'policy.fingerprint'"),
        ({"manifest": None}, "'policy.manifest' is missing"),
        ({"manifest": np.zeros(3)}, "'policy.manifest'"),
        ({"manifest": []}, "0 policy files"),
        ({"manifest": ["{"]}, "'policy.manifest'"),
        ({"manifest": ["[" * 15000]}, "'policy.manifest'"),
        ({"manifest": ["{}"]}, "'policy.manifest'"),
        ({"manifest": manifest(size=-1)}, "size"),
        ({"manifest": manifest(size=True)}, "size"),
        ({"manifest": manifest(size=MAX_TOTAL_BYTES)}, "bytes in all"),
        ({"manifest": manifest(size=10**30)}, "size"),
        ({"manifest": manifest(size=2 + PART_BYTES)}, "'policy.part': 3 parts"),
        ({"manifest": manifest(sha256="00")}, "sha256"),
        ({"manifest": manifest(extra=1)}, "'policy.manifest'"),
        ({"manifest": manifest(name="EMPTY.json")}, "twice"),
        ({"manifest": manifest() * (MAX_FILES // 4 + 1)}, "68 policy files"),
        ({"part": None}, "'policy.part' is missing"),
        ({"part": np.array([3, 3], np.int64)}, "'policy.part' is 3 of 3"),
        ({"part": np.array([-1, 3], np.int64)}, "'policy.part' is -1 of 3"),
        ({"part": np.array([0, MAX_PARTS + 1], np.int64)}, "'policy.part'"),
        ({"part": np.array([0, 2], np.int64)}, "'policy.part': 2 parts"),
        ({"part": np.zeros(2)}, "'policy.part'"),
        ({"data": None}, "'policy.data' is missing"),
        ({"data": np.zeros(3, np.int32)}, "'policy.data'"),
        ({"data": ["x"]}, "'policy.data'"),
    ],
)
def test_a_garbled_part_is_refused(changes: dict[str, Any], complaint: str):
    with pytest.raises(MalformedMessage, match=complaint):
        PolicyAssembler().add(changed(**changes))


def test_what_is_too_large_is_not_sent():
    for files in ({}, {"a": b""}, {f"f{n}": b"x" for n in range(MAX_FILES + 1)}, {"a": bytes(MAX_TOTAL_BYTES + 1)}):
        with pytest.raises(MalformedMessage, match="policy files"):
            encode_policy_files(PolicyFiles(FINGERPRINT, files), "e")


def test_files_are_written_where_they_belong(tmp_path: Path):
    PolicyFiles(FINGERPRINT, FILES).write(tmp_path / "cache")
    found = {p.relative_to(tmp_path / "cache").as_posix(): p for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert hashlib.sha256(found["tokenizer/tokenizer.json"].read_bytes()).digest() == hashlib.sha256(LARGE).digest()
