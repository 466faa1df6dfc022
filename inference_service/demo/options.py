"""The demonstration's command line.

Standard library only, and runnable as a file: ``scripts/demo`` reads the options with it before anything is installed.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# ROS 2 advises 0-101: above, discovery ports meet the system's ephemeral ones.
MAX_DOMAIN = 101
TORCH_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class DemoOptions:
    """What to run, for how long, and where the report goes. ``seconds`` None: until Ctrl-C."""

    mode: str = "distributed"
    device: str = "auto"
    seconds: float | None = None
    policy: Path | None = None
    robot: str = "so101_sim"
    headless: bool = False
    out: Path | None = None
    domain: int | None = None

    @property
    def needs_lerobot(self) -> bool:
        """Whether ``device`` asks for LeRobot's own policy classes on torch."""
        return self.device.split(":")[0] in TORCH_DEVICES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}\nTry: {self.prog} --help\n")
        raise SystemExit(2)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds greater than 0")
    return value


def _domain(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_DOMAIN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ROS_DOMAIN_ID from 0 to {MAX_DOMAIN}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The options, each once."""
    parser = _Parser(
        prog="scripts/demo",
        allow_abbrev=False,
        description="Run a simulated arm on a policy, each node a process of its own, and report what happened.",
    )
    modes = ("distributed", "monolithic")
    add = parser.add_argument
    add("--mode", choices=modes, default=modes[0], help="the model in an engine process, or in the device node itself")
    add("--device", default="auto", metavar="NAME", help="auto, onnx, cpu, cuda…; boards by stand-ins: ascend_om, …")
    add("--seconds", type=_seconds, metavar="N", help="stop N seconds after the first command (default: until Ctrl-C)")
    add("--policy", type=Path, metavar="DIR", help="a LeRobot policy directory (default: the robot's own)")
    add("--robot", default="so101_sim", metavar="NAME", help="a robot of robot_config, or a YAML file")
    add("--headless", action="store_true", help="plain lines instead of the live table")
    add("--out", type=Path, metavar="DIR", help="where the report goes (default: demo-report in the checkout)")
    add("--domain", type=_domain, metavar="N", help="ROS_DOMAIN_ID (default: one that nobody here uses)")
    add("--install-only", action="store_true", help="prepare the environment, run nothing")
    return parser


def parse_options(argv: Sequence[str]) -> DemoOptions:
    """Options from the command line; ends the process with status 2 and a plain sentence where they are wrong."""
    parser = build_parser()
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown_message(unknown[0], parser))
    values = vars(known)
    del values["install_only"]
    return DemoOptions(**values)


def _unknown_message(word: str, parser: argparse.ArgumentParser) -> str:
    names = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    near = difflib.get_close_matches(word.split("=")[0], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return f"unknown option {word}: {hint}"


if __name__ == "__main__":
    # For scripts/demo: which environment these options need.
    sys.stdout.write("lerobot\n" if parse_options(sys.argv[1:]).needs_lerobot else "light\n")
