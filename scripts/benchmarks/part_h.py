"""h: motion over the borders of chunks, by hand-over and engine delay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Result
from benchmarks.motion import HZ, SETTINGS, Drive, Ride

DELAYS_S = (0.0, 0.05, 0.15, 0.3)
SECONDS = 20


def run(bench: Bench) -> Result:
    """Figures by setting and delay, worst of several seeds, and a picture of the first."""
    seeds = range(2 if bench.quick else 10)
    ticks = round(SECONDS * HZ)
    rides = {
        (setting, delay): [Drive(setting, delay, seed).ride(ticks) for seed in seeds]
        for setting in SETTINGS
        for delay in DELAYS_S
    }
    data = {f"{setting}, {delay * 1e3:.0f} ms": _worst(found) for (setting, delay), found in rides.items()}
    _draw({key: found[0] for key, found in rides.items()}, bench.out / "motion.png")
    header = ["hand-over", *(f"{delay * 1e3:.0f} ms" for delay in DELAYS_S)]
    rows = [
        [setting, *(f"{data[f'{setting}, {delay * 1e3:.0f} ms']['border_max']:.2f}" for delay in DELAYS_S)]
        for setting in SETTINGS
    ]
    inside = max(figures["inside_max"] for figures in data.values())
    notes = [
        f"{len(seeds)} rides of {SECONDS} s each at {HZ:g} Hz, a chunk of 50 asked for when 30 are left; a policy "
        f"whose chunks disagree by up to 0.04 rad. Away from borders the velocity changes by {inside:.2f} rad/s a tick "
        "at most."
    ]
    return Result(
        data,
        {"largest change of joint velocity at a chunk's border, rad/s, by engine delay": [header, *rows]},
        notes=notes,
    )


def _worst(rides: list[Ride]) -> dict[str, float]:
    figures = [ride.figures() for ride in rides]
    return {key: max(found[key] for found in figures) for key in figures[0]}


def _draw(rides: dict[tuple[str, float], Ride], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    grid: Any
    figure, grid = plt.subplots(len(SETTINGS), len(DELAYS_S), figsize=(14, 8), sharex=True, sharey=True)
    for (setting, delay), ride in rides.items():
        axes = grid[SETTINGS.index(setting)][DELAYS_S.index(delay)]
        velocity = ride.velocity()[: 10 * round(HZ)]
        for tick in ride.borders:
            if tick < len(velocity):
                axes.axvline(tick / HZ, color="0.85", linewidth=0.8)
        axes.plot(np.arange(len(velocity)) / HZ, velocity, linewidth=0.9)
        if setting == SETTINGS[0]:
            axes.set_title(f"engine delay {delay * 1e3:.0f} ms", fontsize=9)
        if delay == DELAYS_S[0]:
            axes.set_ylabel(f"{setting}\nrad/s", fontsize=8)
        if setting == SETTINGS[-1]:
            axes.set_xlabel("s", fontsize=8)
    figure.suptitle("Joint velocity; grey: a new chunk takes over", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
