"""Pin an image to what it holds now: python3 docker/pins.py cuda [IMAGE] rewrites docker/constraints/cuda.txt.

IMAGE is by default what `docker compose build` calls it. Comments stay, lines with a marker (after a semicolon), and
cyclonedds, which goes with Debian's library.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).with_name("constraints")
_LIST = (
    "from importlib.metadata import distributions as d;"
    "print(*sorted({f\"{x.name.lower().replace('_', '-')}=={x.version}\" for x in d()}), sep='\\n')"
)


def pin(name: str, image: str) -> None:
    """Rewrite ``docker/constraints/NAME.txt`` from the distributions in ``image``."""
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "/opt/venv/bin/python", image, "-c", _LIST]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    file = CONSTRAINTS / f"{name}.txt"
    kept = [line for line in file.read_text().splitlines() if ";" in line or line.startswith(("#", "cyclonedds"))]
    by_hand = {line.split("==")[0].split("<")[0] for line in kept}
    own = ("inference-service", "pip", "setuptools")
    pins = [line for line in told.split() if line.split("==")[0] not in (*by_hand, *own)]
    file.write_text("\n".join([*kept, *pins]) + "\n")


if __name__ == "__main__":
    name = sys.argv[1]
    target = name if name in ("device", "sim") else f"engine-{name}"
    pin(name, sys.argv[2] if len(sys.argv) > 2 else f"localhost/inference-service/{target}:0.1.0")
