"""How long a message waited, between clocks that need not agree."""

from __future__ import annotations

_FORGET = 1000
"""The fastest message is forgotten by a second in that many: faster than clocks drift or are slewed."""


class Transit:
    """Of one stream: how much longer a message was under way than the fastest one, on the wire and in our own queue.

    The difference between the sender's clock and ours falls out. What all messages wait is not seen, and nothing is
    while several senders with different clocks take turns. Of one sender, what was sent later never counts as taken
    earlier.
    """

    def __init__(self) -> None:
        self._least_ns: int | None = None
        self._sent_ns = 0
        self._taken_ns = 0

    def waited_ns(self, sent_ns: int, taken_ns: int) -> int:
        """``sent_ns``: by the sender's clock, 0 where that is not known. ``taken_ns``: monotonic. At least 0."""
        if sent_ns <= 0:
            return 0
        lag = taken_ns - sent_ns
        if self._least_ns is None or sent_ns < self._sent_ns:  # the first, or a clock that was set back
            self._least_ns = lag
        else:
            self._least_ns = min(lag, self._least_ns + (taken_ns - self._taken_ns) // _FORGET)
        self._sent_ns, self._taken_ns = sent_ns, taken_ns
        return max(0, lag - self._least_ns)
