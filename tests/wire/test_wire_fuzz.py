"""Ten thousand broken messages: each is read, or refused as malformed; nothing else, and nothing large."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wire_rig import GOLDEN_TYPES, golden, sample_bytes

from inference_service.core.batch import AffineImage
from inference_service.core.errors import MalformedMessage
from inference_service.wire.envelope import (
    EngineCard,
    EngineState,
    Reply,
    card_from_status,
    card_to_status,
    decode_reply,
    decode_request,
    encode_reply,
    request_address,
)
from inference_service.wire.interfaces import deserialize, serialize
from inference_service.wire.variants import VARIANTS_LIST

STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
LENGTHS = (0, 1, 2, 7, 255, 65535, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
MAX_ALLOCATION = 30_000_000


def mutations(original: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    kinds = (_flip, _length, _cut, _insert, _copy)
    for _ in range(count):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            rng.choice(kinds)(data, rng)
        yield bytes(data)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _length(data: bytearray, rng: random.Random) -> None:
    """A number where a length may stand: aligned after the encapsulation header."""
    if len(data) >= 8:
        position = 4 * rng.randrange(1, len(data) // 4)
        data[position : position + 4] = struct.pack("<I", rng.choice(LENGTHS))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _insert(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data) + 1)
    data[position:position] = rng.randbytes(rng.randrange(1, 17))


def _copy(data: bytearray, rng: random.Random) -> None:
    if len(data) > 8:
        start, target = rng.randrange(4, len(data)), rng.randrange(4, len(data))
        piece = data[start : start + rng.randrange(1, 64)]
        data[target : target + len(piece)] = piece


def read_request(cdr: bytes) -> None:
    message = deserialize(cdr, VARIANTS_LIST)
    request_address(message)
    request = decode_request(message)
    for value in request.batch.values():
        if isinstance(value, AffineImage):
            value.materialise()


def read_reply(cdr: bytes) -> None:
    decode_reply(deserialize(cdr, VARIANTS_LIST))


def read_card(cdr: bytes) -> None:
    card_from_status(deserialize(cdr, STATUS))


def reply_bytes() -> bytes:
    reply = Reply("id", status="expired", message="late", timing_ms={"queue": 3.0}).addressed("d", "s", "e")
    return bytes(serialize(encode_reply(reply, extended=True), VARIANTS_LIST))


def card_bytes() -> bytes:
    card = EngineCard("e", EngineState.LOADING, input_features={"observation.state": (6,)})
    return bytes(serialize(card_to_status(card), STATUS))


def survive(original: bytes, count: int, read: Callable[[bytes], Any], seed: int) -> int:
    """Number of mutations that were refused. Anything but MalformedMessage fails the test with its bytes."""
    refused = 0
    for data in mutations(original, count, seed):
        try:
            read(data)
        except MalformedMessage:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}; bytes {data.hex()}") from error
    return refused


@pytest.mark.parametrize("name", GOLDEN_TYPES)
def test_golden_messages(name: str):
    survive(golden(name), 200, lambda cdr: deserialize(cdr, GOLDEN_TYPES[name]), seed=len(name))


@pytest.mark.parametrize(
    ("original", "read"),
    [
        (sample_bytes("u8"), read_request),
        (sample_bytes("jpeg"), read_request),
        (golden("variants_request_plain"), read_request),
        (golden("variants_reply_plain"), read_reply),
        (reply_bytes(), read_reply),
        (card_bytes(), read_card),
    ],
    ids=["u8", "jpeg", "plain request", "plain reply", "error reply", "card"],
)
def test_the_whole_way_in(original: bytes, read: Callable[[bytes], Any]):
    """Fault: bytes changed, lengths inflated, parts cut, added and moved. Expected: MalformedMessage or a reading.
    Invariant: no other exception, no large allocation."""
    read(original)
    tracemalloc.start()
    try:
        assert survive(original, 1000, read, seed=1) > 300
        assert tracemalloc.get_traced_memory()[1] < MAX_ALLOCATION
    finally:
        tracemalloc.stop()
