"""Payloads in shared memory: the very bytes, or an error that says why not; nothing stale, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference_service.core.batch import AffineImage
from inference_service.core.errors import MalformedMessage
from inference_service.core.image_norm import ImageNorm
from inference_service.wire import interfaces
from inference_service.wire.card import EngineCard, EngineState, card_from_status, card_to_status
from inference_service.wire.envelope import Request, decode_request, encode_request
from inference_service.wire.shared_memory import SLOTS, Beacon, SharedReader, SharedRing, sees
from inference_service.wire.variants import DEFAULT_BOUNDS, VARIANTS_LIST, Bounds, from_variants

PIXELS = np.random.default_rng(0).integers(-(2**31), 2**31 - 1, 230_400, dtype=np.int32)
FLOATS = np.random.default_rng(1).normal(size=(3, 200, 100)).astype(np.float32)


@pytest.fixture
def ring(tmp_path):
    ring = SharedRing(tmp_path)
    yield ring
    ring.close()


@pytest.fixture
def reader(tmp_path):
    reader = SharedReader(tmp_path)
    yield reader
    reader.close()


def test_large_tensors_go_through_memory_small_ones_and_strings_do_not(ring, reader) -> None:
    entries = {"a": PIXELS, "b": FLOATS, "state": np.zeros((1, 6), np.float32), "task": ["push"]}
    kept, objects = ring.put(entries)
    assert {key: len(kept[key]) for key in "ab"} == {"a": 0, "b": 0}
    assert kept["state"] is entries["state"] and kept["task"] == ["push"]
    read = reader.take(objects, DEFAULT_BOUNDS)
    np.testing.assert_array_equal(read["a"], PIXELS)
    np.testing.assert_array_equal(read["b"], FLOATS)
    assert read["b"].dtype == np.float32 and set(read) == {"a", "b"}


def test_nothing_large_makes_no_file(ring, tmp_path) -> None:
    kept, objects = ring.put({"state": np.zeros(6, np.float32)})
    assert objects == [] and list(kept) == ["state"] and not list(tmp_path.iterdir())


def test_every_request_of_many_is_read_as_it_was_written(ring, reader) -> None:
    for number in range(3 * SLOTS):
        _, objects = ring.put({"a": PIXELS + number})
        np.testing.assert_array_equal(reader.take(objects, DEFAULT_BOUNDS)["a"], PIXELS + number)


def test_a_tensor_that_is_still_held_is_not_written_over(ring, reader) -> None:
    held = []
    for number in range(20):
        _, objects = ring.put({"a": PIXELS + number, "b": PIXELS - number})
        held.append(reader.take(objects, DEFAULT_BOUNDS)["a"][1:])
    for number, view in enumerate(held):
        np.testing.assert_array_equal(view, (PIXELS + number)[1:])


def test_earlier_observations_go_through_memory_too(ring, reader) -> None:
    pictures = [np.full((120, 160, 3), number, np.uint8) for number in range(3)]
    frames = [{"observation.images.top": AffineImage(pixels)} for pixels in pictures]
    request = Request("r", frames[2], device_id="d", session="s", earlier=tuple(frames[:2]))
    codecs = {"observation.images.top": "u8"}
    message = encode_request(request, extended=True, codecs=codecs, ring=ring)
    assert sum(entry.nbytes for entry in from_variants(message).values() if not isinstance(entry, list)) < 100
    back = decode_request(message, shared=reader)
    assert back.earlier is not None
    for pixels, frame in zip(pictures, (*back.earlier, back.batch), strict=True):
        np.testing.assert_array_equal(frame["observation.images.top"].pixels, pixels)


def test_memory_is_used_again_once_nobody_holds_it(ring, reader) -> None:
    addresses = set()
    for _ in range(10):
        _, objects = ring.put({"a": PIXELS})
        addresses.add(reader.take(objects, DEFAULT_BOUNDS)["a"].ctypes.data)
    assert len(addresses) == 1


def test_a_request_that_waited_until_it_was_overwritten_is_refused(ring, reader) -> None:
    _, old = ring.put({"a": PIXELS})
    for _ in range(SLOTS - 1):
        ring.put({"a": PIXELS})
    reader.take(old, DEFAULT_BOUNDS)
    ring.put({"a": PIXELS})
    with pytest.raises(MalformedMessage, match="'a': overwritten in shared memory before it was read"):
        reader.take(old, DEFAULT_BOUNDS)


def test_a_slot_that_is_being_written_is_refused(ring, reader, tmp_path) -> None:
    _, objects = ring.put({"a": PIXELS})
    with next(tmp_path.iterdir()).open("r+b") as file:
        file.seek(json.loads(objects[0])["slot"])
        file.write(bytes(8))
    with pytest.raises(MalformedMessage, match="overwritten"):
        reader.take(objects, DEFAULT_BOUNDS)


def test_a_larger_request_takes_a_larger_file_and_leaves_none(ring, reader, tmp_path) -> None:
    ring.put({"a": PIXELS})
    _, objects = ring.put({"a": PIXELS, "b": FLOATS})
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(reader.take(objects, DEFAULT_BOUNDS)["b"], FLOATS)


def test_close_removes_the_file_and_a_closed_ring_starts_anew(ring, reader, tmp_path) -> None:
    ring.put({"a": PIXELS})
    ring.close()
    ring.close()
    assert not list(tmp_path.iterdir())
    _, objects = ring.put({"a": PIXELS})
    assert reader.take(objects, DEFAULT_BOUNDS)["a"][0] == PIXELS[0]


def test_a_file_cut_short_is_an_error_and_no_signal(ring, reader, tmp_path) -> None:
    _, objects = ring.put({"a": PIXELS})
    reader.take(objects, DEFAULT_BOUNDS)
    os.truncate(next(tmp_path.iterdir()), 4096)
    with pytest.raises(MalformedMessage, match="holds"):
        reader.take(objects, DEFAULT_BOUNDS)


def changed(objects: list[str], **fields: object) -> list[str]:
    return [json.dumps({**json.loads(objects[0]), **fields})]


@pytest.mark.parametrize(
    "fields",
    [
        {"segment": "../../etc/passwd"},
        {"segment": "inference-service-" + "0" * 32},
        {"segment": 5},
        {"offset": -8},
        {"offset": 1 << 60},
        {"slot": True},
        {"turn": 0},
        {"dtype": "object"},
        {"shape": [1 << 40]},
        {"shape": []},
        {"shape": [0]},
        {"shape": [1.5]},
        {"shape": "abc"},
        {"key": None},
        {"more": 1},
    ],
    ids=str,
)
def test_what_no_ring_of_ours_wrote_is_refused(ring, reader, fields) -> None:
    _, objects = ring.put({"a": PIXELS})
    with pytest.raises(MalformedMessage):
        reader.take(changed(objects, **fields), DEFAULT_BOUNDS)
    reader.take(objects, DEFAULT_BOUNDS)


@pytest.mark.parametrize("text", ["", "[]", "{", "5", '{"key": "a"}', "[" * 100_000])
def test_no_object_at_all(reader, text) -> None:
    with pytest.raises(MalformedMessage, match=r"task\.shared"):
        reader.take([text], DEFAULT_BOUNDS)


def test_claims_beyond_the_bounds_are_refused_before_anything_is_allocated(ring, reader) -> None:
    _, objects = ring.put({"a": PIXELS, "b": FLOATS})
    with pytest.raises(MalformedMessage, match="outside the bounds"):
        reader.take(objects, Bounds(tensor_bytes=1000))
    with pytest.raises(MalformedMessage, match="at most"):
        reader.take(objects, Bounds(total_bytes=PIXELS.nbytes))


def test_a_link_is_not_followed(ring, reader, tmp_path) -> None:
    _, objects = ring.put({"a": PIXELS})
    link = "inference-service-" + "a" * 32
    (tmp_path / link).symlink_to(json.loads(objects[0])["segment"])
    with pytest.raises(MalformedMessage):
        reader.take(changed(objects, segment=link), DEFAULT_BOUNDS)


def test_the_beacon_is_seen_where_the_directory_is_shared_and_nowhere_else(tmp_path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    beacon = Beacon(here)
    name, _, secret = beacon.token.partition(":")
    assert sees(beacon.token, here)
    assert not sees(beacon.token, there)
    assert not sees(f"{name}:{'0' * len(secret)}", here)
    assert not sees("", here) and not sees("../x:00", here)
    beacon.close()
    assert not sees(beacon.token, here) and not list(here.iterdir())


def test_no_directory_no_token(tmp_path) -> None:
    beacon = Beacon(tmp_path / "absent")
    assert beacon.token == ""
    assert "absent is no directory" in beacon.problem


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small directory needs root")
def test_a_full_directory_gives_no_token_and_says_why(tmp_path) -> None:
    """Fault: the shared directory is full. Expected: no token, the reason in words. Invariant: no file is left."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        (tmp_path / "others").write_bytes(bytes(8192))
        beacon = Beacon(tmp_path)
        assert beacon.token == ""
        assert beacon.problem == f"{tmp_path}: No space left on device"
        assert [path.name for path in tmp_path.iterdir()] == ["others"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=30)


DYING = """
import os, sys
from pathlib import Path
import numpy as np
from inference_service.wire.shared_memory import SharedRing
SharedRing(Path(sys.argv[1])).put({"a": np.zeros(100_000, np.float32)})
os._exit(9)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path) -> None:
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 1
    living = SharedRing(tmp_path)
    living.put({"a": PIXELS})
    beacon = Beacon(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "the ring and the beacon; the orphan is gone"
    _, objects = living.put({"a": PIXELS})
    reader = SharedReader(tmp_path)
    assert reader.take(objects, DEFAULT_BOUNDS)["a"][5] == PIXELS[5]
    for resource in (living, beacon, reader):
        resource.close()


def test_a_full_directory_is_an_error_before_anything_is_written() -> None:
    full = Path("/dev/full")
    with pytest.raises(OSError):
        SharedRing(full).put({"a": PIXELS})


def test_files_are_closed(tmp_path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = SharedReader(tmp_path)
    for _ in range(70):
        ring = SharedRing(tmp_path)
        _, objects = ring.put({"a": PIXELS})
        reader.take(objects, DEFAULT_BOUNDS)
        ring.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 64
    reader.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def serialize(message):
    return bytes(interfaces.serialize(message, VARIANTS_LIST))


def deserialize(message):
    return interfaces.deserialize(serialize(message), VARIANTS_LIST)


def request_of(batch):
    return Request("r1", batch, device_id="d", session="s", fingerprint="f")


def test_a_request_arrives_the_same_through_memory_as_in_the_message(ring, reader) -> None:
    image = AffineImage(PIXELS.view(np.uint8)[: 480 * 640 * 3].reshape(480, 640, 3), ImageNorm())
    batch = {"observation.images.top": image, "observation.state": np.ones((1, 6), np.float32), "floats": FLOATS[None]}
    codecs = {"observation.images.top": "u8"}
    through_memory = encode_request(request_of(batch), extended=True, codecs=codecs, ring=ring)
    in_message = encode_request(request_of(batch), extended=True, codecs=codecs)
    assert len(serialize(through_memory)) < 20_000 < len(serialize(in_message))
    one = decode_request(deserialize(through_memory), shared=reader)
    other = decode_request(deserialize(in_message))
    np.testing.assert_array_equal(one.batch["observation.images.top"].pixels, image.pixels)
    assert one.batch["observation.images.top"].norm == other.batch["observation.images.top"].norm
    for key in ("observation.state", "floats"):
        np.testing.assert_array_equal(one.batch[key], other.batch[key])


def test_an_engine_that_shares_nothing_says_so(ring) -> None:
    message = encode_request(request_of({"floats": FLOATS[None]}), extended=True, ring=ring)
    with pytest.raises(MalformedMessage, match="memory that this engine does not share"):
        decode_request(message)


def test_memory_for_a_tensor_that_the_message_does_not_name(ring, reader) -> None:
    message = encode_request(request_of({"floats": FLOATS[None]}), extended=True, ring=ring)
    message.variants = [variant for variant in message.variants if variant.key != "floats"]
    with pytest.raises(MalformedMessage, match="floats is not in the message"):
        decode_request(message, shared=reader)


def test_the_card_carries_the_token() -> None:
    card = EngineCard("e", EngineState.LOADING, shared_memory="inference-service-" + "0" * 32 + ":ab")
    assert card_from_status(card_to_status(card)).shared_memory == card.shared_memory
