"""The log lines that the documentation promises, and which of them a run has printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

NOT_APPLICABLE = "not applicable"

_NUMBER = r"\d+(?:\.\d+)?"
_ROS_PREFIX = re.compile(r"^\[\w+\] \[[\d.]+\] \[[^\]]+\]: ")


@dataclass(frozen=True)
class PromisedLine:
    """``text`` to the letter, ``XX`` standing for a number; printed by ``node``.

    ``distributed_only``: the line speaks of the link between device and engine, so a monolithic run has none.
    """

    node: str
    text: str
    distributed_only: bool = False

    def matches(self, node: str, line: str) -> bool:
        """Whether ``line``, as it came from ``node``, is this line; more may follow it after a space."""
        message = _ROS_PREFIX.sub("", line.rstrip())
        return node == self.node and _pattern(self.text).match(message) is not None


@lru_cache(maxsize=32)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace("XX", _NUMBER) + r"(?: |$)")


PROMISED_LINES = (
    PromisedLine("pure_inference", "Waiting for preprocessed batches from edge node...", distributed_only=True),
    PromisedLine("pure_inference", "✓ First inference completed: latency=XXms", distributed_only=True),
    PromisedLine("pure_inference", "[stats] count=XX, avg=XXms, last=XXms", distributed_only=True),
    PromisedLine("act_inference_node", "✓ First inference complete (distributed): total=XXms", distributed_only=True),
    PromisedLine("action_dispatcher", "✓ First inference received: chunk=XX, latency=XXms"),
    PromisedLine("action_dispatcher", "[stats] inferences=XX, avg_latency=XXms, queue=XX, hold=XX"),
)


class LogWatch:
    """Ticks off the promised lines."""

    def __init__(self, mode: str) -> None:
        self._distributed = mode == "distributed"
        self._seen: set[str] = set()

    def see(self, node: str, line: str) -> None:
        """One line from one process."""
        self._seen.update(p.text for p in PROMISED_LINES if p.matches(node, line))

    def result(self) -> dict[str, bool | str]:
        """Each promised line: seen or not, or that this mode has no such line."""
        return {
            p.text: NOT_APPLICABLE if p.distributed_only and not self._distributed else p.text in self._seen
            for p in PROMISED_LINES
        }
