"""``report.png``: a run at a glance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from inference_service.demo.recording import Recording

# Bottom to top, in the order in which a request passes them.
STACK = ("sample", "preprocess", "wire", "queue", "decode", "inference", "encode", "postprocess")
COLOURS = ("#b8c4d6", "#7a9cc6", "#f2b35e", "#d98032", "#8d7bb5", "#3d6fa5", "#a9a1c9", "#6aa58a")
TARGET, POSITION = "#d98032", "#3d6fa5"
MAX_JOINTS = 6
MAX_BARS = 120
SIZE_INCHES = (15.0, 10.0)
DPI = 110


def write_picture(recording: Recording, report: Mapping[str, Any], folder: Path) -> Path:
    """``report.png`` in ``folder``: latency by stage, joint targets and positions, each camera's last picture."""
    path = folder / "report.png"
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.alpha": 0.25, "axes.titleweight": "bold", "axes.titlesize": 11}):  # fmt: skip
        figure = plt.figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
        try:
            recording.read(lambda r: _draw(figure, r, report))
            figure.savefig(path)
        finally:
            plt.close(figure)
    return path


def _draw(figure: Figure, r: Recording, report: Mapping[str, Any]) -> None:
    figure.suptitle(
        _headline(report), fontsize=13, fontweight="bold", color="#9c2f2f" if report["failures"] else "black"
    )
    upper, lower = _subfigures(figure, 2, 1, height_ratios=(1.0, 1.05))
    latency, cameras = _subfigures(upper, 1, 2, width_ratios=(1.45, 1.0))
    start = r.first_command_at or (r.chunks[0].t if r.chunks else 0.0)
    _draw_latency(latency.subplots(), r, start)
    _draw_cameras(cameras, r)
    _draw_joints(lower, r, start)


def _subfigures(figure: Figure | SubFigure, rows: int, columns: int, **ratios: Any) -> list[SubFigure]:
    return list(np.ravel(np.asarray(figure.subfigures(rows, columns, **ratios), dtype=object)))


def _headline(report: Mapping[str, Any]) -> str:
    total = report["latency_ms"]["total"]["p50"]
    latency = "no inference" if total is None else f"inference {total:.1f} ms"
    verdict = "; ".join(report["failures"]) or "every promise that shows was kept"
    return (
        f"{report['mode']} on {report['backend']} ({report['device']}): {report['seconds']:.0f} s, "
        f"{report['inferences']} inferences, {latency}, {report['hold_ticks_after_5s']} holds after 5 s\n"
        f"{textwrap.shorten(verdict, 130)}"
    )


def _draw_latency(axes: Axes, r: Recording, start: float) -> None:
    axes.set(title="Latency of one inference, by stage", xlabel="seconds since the first command", ylabel="ms")
    if not r.chunks:
        _nothing(axes, "no inference was seen")
        return
    t = np.array([c.t - start for c in r.chunks])
    layers = [np.array([c.stages.get(stage, 0.0) for c in r.chunks]) for stage in STACK]
    shown = [i for i, layer in enumerate(layers) if layer.max() > 0]
    if len(t) <= MAX_BARS:
        _bars(axes, t, layers, shown)
    else:
        names, colours = [STACK[i] for i in shown], [COLOURS[i] for i in shown]
        axes.stackplot(t, [layers[i] for i in shown], labels=names, colors=colours, linewidth=0)
    total = np.array([c.stages.get("total", np.nan) for c in r.chunks])
    line = 0.0 if len(t) <= MAX_BARS else 0.9
    axes.plot(t, total, color="black", linewidth=line, marker=".", markersize=4, label="total")
    axes.set_ylim(0, max(1.0, float(np.nanpercentile(total, 98)) * 1.5))
    axes.margins(x=0)
    axes.legend(loc="upper right", ncols=3, fontsize=8, framealpha=0.9)


def _bars(axes: Axes, t: NDArray[np.float64], layers: list[NDArray[np.float64]], shown: list[int]) -> None:
    """One stacked bar for each inference: a surface would invent what lies between a few of them."""
    width = 0.7 * float(np.median(np.diff(t))) if len(t) > 1 else 0.5
    bottom: NDArray[np.float64] = np.zeros(len(t))
    for i in shown:
        axes.bar(t, layers[i], width, bottom=bottom, color=COLOURS[i], label=STACK[i])
        bottom = bottom + layers[i]


def _draw_cameras(figure: SubFigure, r: Recording) -> None:
    names = sorted(r.frames)
    if not names:
        axes = figure.subplots()
        axes.set_axis_off()
        _nothing(axes, "no camera picture was seen")
        return
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        axes.imshow(r.frames[name])
        axes.set_title(name)
        axes.set_axis_off()


def _draw_joints(figure: SubFigure, r: Recording, start: float) -> None:
    named = [(topic, i, name) for topic, limits in r.terms.joint_limits.items() for i, (name, *_) in enumerate(limits)]
    shown = named[:MAX_JOINTS]
    if not shown:
        _nothing(figure.subplots(), "this robot's joints are not known")
        return
    grid = figure.subplots(2, (len(shown) + 1) // 2, sharex=True, squeeze=False).ravel()
    for axes, (topic, index, name) in zip(grid, shown, strict=False):
        _draw_joint(axes, r, start, topic, index, name)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    grid[0].legend(loc="best", fontsize=8, framealpha=0.9)
    figure.supxlabel("seconds since the first command", fontsize=10)
    figure.supylabel("rad", fontsize=10)


def _draw_joint(axes: Axes, r: Recording, start: float, topic: str, index: int, name: str) -> None:
    axes.set_title(f"joint {name}")
    commands = [c for c in r.commands.get(topic, ()) if index < len(c.values)]
    states = [j for j in r.joints if name in j.positions and j.t >= start - 1.0]
    axes.step([c.t - start for c in commands], [c.values[index] for c in commands], where="post",
              color=TARGET, linewidth=1.4, label="target")  # fmt: skip
    axes.plot([j.t - start for j in states], [j.positions[name] for j in states],
              color=POSITION, linewidth=1.2, label="position")  # fmt: skip


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#777777")
