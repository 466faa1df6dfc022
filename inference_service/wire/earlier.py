"""Observations of the control ticks before, in a request for a policy that looks back (``n_obs_steps`` above 1).

``task.earlier`` (int64) says how many there are, none being an answer too: the session has just begun. The tensor
``<key>`` of the observation ``<n>`` ticks before (1 is the latest) is ``task.earlier.<n>.<key>``, encoded as that of
the batch. Sent only to an engine whose card names ``earlier_observations``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from inference_service.core.batch import Batch, Value
from inference_service.core.errors import MalformedMessage
from inference_service.wire.fields import bounded, checked
from inference_service.wire.variants import Entry

COUNT = "task.earlier"
MOST = 63
_KEY = re.compile(r"task\.earlier\.([1-9][0-9]?)\.(.+)", re.DOTALL)


def is_earlier(key: str) -> bool:
    """Whether ``key`` is that of an earlier observation's tensor."""
    return _KEY.fullmatch(key) is not None


def earlier_keys(earlier: Sequence[Batch]) -> Iterator[tuple[str, str, Value]]:
    """Key on the wire, key in the batch, and value of every tensor. ``earlier``: oldest first."""
    for place, frame in enumerate(reversed(earlier), 1):
        for key, value in frame.items():
            yield f"{COUNT}.{place}.{key}", key, value


def encode_count(earlier: Sequence[Batch] | None) -> dict[str, Entry]:
    """The entry that says how many there are; none where nothing is to be said. Raises MalformedMessage for more than
    :data:`MOST`."""
    return {} if earlier is None else {COUNT: np.array([checked(COUNT, len(earlier), MOST)], np.int64)}


def take_earlier(batch: Batch, envelope: Mapping[str, Entry]) -> tuple[Batch, ...] | None:
    """The earlier observations, oldest first, out of the decoded ``batch`` that they came in; None where the envelope
    does not speak of them.

    Raises:
        MalformedMessage: another number of them than the envelope says.
    """
    found: dict[int, Batch] = {}
    for wire_key in list(batch):
        match = _KEY.fullmatch(wire_key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = batch.pop(wire_key)
    count = bounded(envelope, COUNT, MOST) if COUNT in envelope else None
    if sorted(found) != list(range(1, (count or 0) + 1)):
        said = "nothing" if count is None else count
        raise MalformedMessage(f"{COUNT!r} says {said}, the message holds the observations {sorted(found)}")
    return None if count is None else tuple(found[place] for place in range(count, 0, -1))
