"""Which requests one forward pass may answer together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from inference_service.core.batch import Batch
from inference_service.core.policy import InferenceContext


def shapes(batch: Batch) -> Hashable:
    """Equal for batches that can be stacked: same entries, same shapes. Strings do not count."""
    return frozenset((name, tuple(value.shape)) for name, value in batch.items() if not isinstance(value, list))


def groups(
    requests: Sequence[tuple[Batch, InferenceContext]], max_batch: int, *, one_per_session: bool
) -> list[list[int]]:
    """Positions in ``requests``, in groups of at most ``max_batch`` with equal shapes, oldest first.

    ``one_per_session``: the policy remembers, so a session's next request belongs after its last one.
    """
    found: list[list[int]] = []
    open_groups: dict[Hashable, list[int]] = {}
    sessions: dict[Hashable, set[str]] = {}
    for position, (batch, context) in enumerate(requests):
        key = shapes(batch)
        group = open_groups.get(key)
        full = group is None or len(group) >= max_batch
        if group is None or full or (one_per_session and context.session in sessions[key]):
            group = open_groups[key] = []
            sessions[key] = set()
            found.append(group)
        group.append(position)
        sessions[key].add(context.session)
    return found
