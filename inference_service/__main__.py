"""The command ``inference-service``, also ``python -m inference_service``: :mod:`.cli`, ended by Ctrl-C in silence."""

from __future__ import annotations

import signal
import sys

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def main() -> int:
    """Exit status: as of :func:`inference_service.cli.main`; 130 after a Ctrl-C that no node or launch was there to
    take."""
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else somebody wants it ignored
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the imports have nothing to clean up
    from inference_service import cli

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return cli.main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
