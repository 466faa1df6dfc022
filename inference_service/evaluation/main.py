"""``inference-service evaluate``: how often the policy brings the simulated arm to the cube.

::

    inference-service evaluate policies/so101_act_demo                        in one process, simulated time
    inference-service evaluate DIR --mode distributed --device onnx           real processes over DDS, real time
    inference-service evaluate DIR --encoding jpeg:90 --json result.json      the pictures as the wire carries them
    inference-service evaluate DIR --mistake bgr                              what a wrongly wired robot would do

The task, its tolerance and what counts as success: ``inference_service.sim.task``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_service.core.errors import InferenceServiceError
from inference_service.core.policy_folder import PolicyFolder
from inference_service.evaluation import in_process, over_dds
from inference_service.evaluation.result import Episode, summary
from inference_service.wire.encodings import Codec
from robot_config import RobotConfigError

MODES = ("in_process", "monolithic", "distributed")
"""``monolithic``: the model in the device node, the rest as in ``distributed``."""
EXIT_GOOD, EXIT_TOO_FEW, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 enough episodes succeeded, 1 too few, 2 it could not be tried."""
    try:
        arguments = _parser().parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        result = evaluate(arguments)
    except (InferenceServiceError, RobotConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(line(result) + "\n")
    return EXIT_GOOD if result["rate"] >= arguments.at_least else EXIT_TOO_FEW


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inference-service evaluate", description="Let a policy drive the simulated arm to the cube, and count."
    )
    add = parser.add_argument
    add("policy", type=Path, metavar="DIR", help="policy directory (config.json)")
    add("--mode", choices=MODES, default=MODES[0], help="how to run it (default: %(default)s)")
    add("--device", default="auto", help="as device:= of the nodes (default: auto)")
    add("--encoding", type=_encoding, help="how the pictures travel: u8, f16, f32, jpeg:90… (default: as robots do)")
    add("--mistake", choices=in_process.MISTAKES, default="none", help="wire the robot wrongly; in_process only")
    add("--renderer", choices=("auto", "egl", "simple"), default="auto", help="in_process only")
    add("--seeds", type=_positive, default=20, metavar="N", help="how many episodes (default: %(default)s)")
    add("--first-seed", type=int, default=1000, metavar="N", help="seeds count up from here (default: %(default)s)")
    add("--at-least", type=float, default=0.9, metavar="RATE", help="exit status 1 below (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every episode there")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _encoding(text: str) -> str:
    try:
        Codec.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for; its result, ready for JSON.

    Raises:
        InferenceServiceError, RobotConfigError: it cannot be run here.
    """
    folder = PolicyFolder.load(arguments.policy)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    started = time.monotonic()
    backend, episodes = _play(folder, seeds, arguments)
    return {
        "policy": folder.path.name,
        "fingerprint": folder.fingerprint,
        "mode": arguments.mode,
        "device": arguments.device,
        "backend": backend,
        "encoding": arguments.encoding or "default",
        "mistake": arguments.mistake,
        "seconds": round(time.monotonic() - started, 1),
        **summary(episodes),
    }


def _play(folder: PolicyFolder, seeds: range, arguments: argparse.Namespace) -> tuple[str, list[Episode]]:
    device, encoding = arguments.device, arguments.encoding
    if arguments.mode == "in_process":
        return in_process.play_all(folder, seeds, device, encoding, arguments.mistake, arguments.renderer)
    if arguments.mistake != "none" or arguments.renderer != "auto":
        raise InferenceServiceError(f"--mistake and --renderer belong to --mode in_process, not {arguments.mode}")
    return over_dds.play_all(folder.path, seeds, device, encoding, arguments.mode)


def line(result: dict[str, Any]) -> str:
    """A row of the success table."""
    what = [result["mode"], result["backend"], result["encoding"]]
    if result["mistake"] != "none":
        what.append(f"mistake: {result['mistake']}")
    return f"{result['succeeded']:3d} of {result['of']}  {', '.join(what)}  ({result['seconds']} s)"
