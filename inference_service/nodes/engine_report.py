"""What an engine node counts, as log line and as diagnostics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from inference_service.nodes.engine_sessions import DeviceCount

QUIET_S = 1.0
"""A kind of mishap is logged once in this time, however often it happens."""
_DEVICES_SHOWN = 16


@dataclass
class EngineReport:
    """Counted by one thread, read by others. Durations in milliseconds."""

    count: int = 0
    passes: int = 0
    malformed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_ms: float = 0.0
    total_ms: float = 0.0
    _quiet_until: dict[str, float] = field(default_factory=dict)

    def add(self, inference_ms: float) -> int:
        """A request was answered with an action; how many were."""
        self.count += 1
        self.last_ms = inference_ms
        self.total_ms += inference_ms
        return self.count

    def may_tell_of_malformed(self) -> bool:
        return self._may_tell("malformed")

    def may_tell_of_refused(self) -> bool:
        return self._may_tell("refused")

    def _may_tell(self, kind: str) -> bool:
        now = time.monotonic()
        if now < self._quiet_until.get(kind, 0.0):
            return False
        self._quiet_until[kind] = now + QUIET_S
        return True

    def line(self) -> str:
        return f"count={self.count}, avg={self.total_ms / max(1, self.count):.1f}ms, last={self.last_ms:.1f}ms"

    def values(self) -> dict[str, str]:
        """For diagnostics. ``batch_mean``: requests answered in one pass, on average."""
        refused = {f"refused_{name}": str(number) for name, number in sorted(self.refused.items())}
        return {
            "count": str(self.count),
            "failures": str(self.malformed + sum(self.refused.values())),
            "malformed": str(self.malformed),
            **refused,
            "last_ms": f"{self.last_ms:.3f}",
            "batch_mean": f"{self.count / self.passes:.2f}" if self.passes else "0",
        }


def device_values(devices: Mapping[str, DeviceCount]) -> dict[str, str]:
    """One line for each of the devices heard of last, for diagnostics."""
    newest = list(devices.items())[-_DEVICES_SHOWN:]
    shown = {
        f"device {name}": f"received={d.received} served={d.served} refused={d.refused} "
        f"unanswered={d.unanswered} rate_hz={d.rate_hz:.1f}"
        for name, d in newest
    }
    return {"devices": str(len(devices)), **shown}
