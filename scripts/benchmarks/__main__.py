"""Runs the parts one after the other, each in a process with a deadline, and gathers what they found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.options import PARTS, build_parser
from benchmarks.report import markdown, write_docs, write_plots

DEADLINE_S = 170.0
DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
GRACE_S = 10.0
WARM_S = 180.0


def main() -> int:
    """Exit status: 0 when every part that was asked for ran, 1 when one failed."""
    options = build_parser().parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.pop("CYCLONEDDS_URI", None)
    result: dict[str, Any] = {"machine": describe_machine(), "command": _command(), "parts": {}}
    if options.peers:
        _warm_peers()
    for letter in options.only:
        print(f"── {letter}: {PARTS[letter]}", file=sys.stderr, flush=True)
        started = time.monotonic()
        part = result["parts"][letter] = _run_part(letter, options, out)
        said = part.get("error") or part.get("left_out") or "done"
        print(f"   {said} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    (out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    result["plots"] = write_plots(result, out)
    text = markdown(result)
    (out / "bench.md").write_text(text)
    if options.docs:
        pictures = [out / name for name in result["plots"]]
        pictures += [picture for picture in (out / "motion.png",) if "h" in options.only and picture.exists()]
        write_docs(text, pictures, DOCS)
    print(text)
    return 1 if any("error" in part for part in result["parts"].values()) else 0


def _warm_peers() -> None:
    """Read the peers' libraries from the disk once, so that no part's time goes into that."""
    modules = ("lerobot.async_inference.policy_server", "lerobot.common.control_utils", "websockets", "msgpack")
    command = [os.environ["BENCH_PEER_PYTHON"], "-m", "benchmarks.footprint", *modules]
    try:
        with tempfile.TemporaryDirectory() as elsewhere:  # LeRobot writes a log where it is imported
            subprocess.run(command, capture_output=True, timeout=WARM_S, check=True, cwd=elsewhere)
    except (subprocess.SubprocessError, KeyError) as error:
        print(f"the peers could not be imported: {error}", file=sys.stderr)


def _command() -> str:
    return " ".join(["scripts/bench", *sys.argv[1:]])


def _run_part(letter: str, options: Namespace, out: Path) -> dict[str, Any]:
    answer = out / f"{letter}.json"
    answer.unlink(missing_ok=True)
    arguments = {
        "out": str(out),
        "quick": options.quick,
        "seconds": options.seconds,
        "device": options.device,
        "peer_python": os.environ.get("BENCH_PEER_PYTHON") if options.peers else None,
    }
    command = [sys.executable, "-m", "benchmarks.part", letter, json.dumps(arguments)]
    process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr)
    failure = _wait(process, DEADLINE_S * max(1.0, options.seconds / 100))
    if not answer.exists():
        return {"error": failure or f"ended with {process.returncode} and left no result"}
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _wait(process: subprocess.Popen[bytes], deadline_s: float) -> str | None:
    """Why it did not end by itself, or None. Whatever it started ends with it."""
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        return _end(process, f"took more than {deadline_s:.0f} s and was stopped")
    except KeyboardInterrupt:
        _end(process, "interrupted")
        raise
    return None


def _end(process: subprocess.Popen[bytes], why: str) -> str:
    """First the part itself, which cleans up; then its group, should that not help."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(GRACE_S)
    return why


if __name__ == "__main__":
    sys.exit(main())
