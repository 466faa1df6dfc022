"""Options of ``scripts/bench``. Standard library alone: read before anything is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PARTS = {
    "a": "monolithic: what the pipeline adds to the policy's own time",
    "b": "distributed: what the wire adds, by image size and encoding",
    "c": "bytes per inference, by encoding",
    "d": "1 Gbit/s and 100 Mbit/s links with loss, between two network namespaces (needs root)",
    "e": "robots per engine: 1 to 16 devices at 20 Hz, with and without batching",
    "f": "control tick: jitter while inference runs",
    "g": "start-up time, resident memory, image sizes",
    "h": "motion over the borders of chunks, by hand-over and engine delay",
}


def build_parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {key}  {text}" for key, text in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure this stack, with --peers beside others.",
        epilog=f"parts:\n{parts}\n\nResults: OUT/bench.json, OUT/bench.md, OUT/*.png. Exit 1 when a part failed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_parts, default=tuple(PARTS), metavar="a,b,…", help="these parts only")
    parser.add_argument("--peers", action="store_true", help="install and measure LeRobot and an openpi-style server")
    parser.add_argument("--quick", action="store_true", help="few repeats: does it work, not how fast is it")
    parser.add_argument("--out", type=Path, default=Path("bench-report"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=100.0, help="aim for this long a part (default: %(default)g)")
    parser.add_argument(
        "--device",
        default="auto",
        help="where the engine of part e and the model of part f compute: auto, onnx, cpu, cuda… (default: auto)",
    )
    parser.add_argument(
        "--docs", action="store_true", help="put the results into docs/benchmarks.md, with the pictures"
    )
    parser.add_argument("--install-only", action="store_true", help="prepare the environments and stop")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(text.replace(" ", "").lower().split(",")))
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {', '.join(map(repr, unknown))}: known are {', '.join(PARTS)}")
    return chosen


def main(arguments: Sequence[str]) -> int:
    """Print what has to be installed: ``light`` or ``lerobot``, and ``peers``; or the usage when asked for help."""
    options = build_parser().parse_args(arguments)
    torch = options.device.startswith(("cpu", "cuda", "lerobot"))
    print("lerobot" if torch else "light", "peers" if options.peers else "")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
