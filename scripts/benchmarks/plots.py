"""Pictures of the results: bars for overheads, lines for fleets and ticks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks import part_a, part_b

Data = dict[str, Any]
OURS, THEIRS = "#1f77b4", "#b0b0b0"
DPI = 110


def _bars(labels: list[str], values: list[float], ours: list[bool], title: str, unit: str, path: Path) -> str:
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(labels) + 1.3))
    colours = [OURS if own else THEIRS for own in ours]
    bars = axes.barh(labels, values, color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=max(values) * 2)
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path.name


def _draw_summaries(summaries: Data, labels: dict[str, str], title: str, path: Path) -> str:
    ordered = sorted(summaries, key=lambda name: float(summaries[name]["median_ms"]))
    names = [labels[name] for name in ordered]
    values = [summaries[name]["median_ms"] for name in ordered]
    return _bars(names, values, [name.startswith("ours") for name in names], title, "ms, median (log)", path)


def local_overhead(data: Data, out: Path) -> list[str]:
    size = next(iter(data))
    title = f"Pipeline over the bare policy call, 2 x {size}"
    return [_draw_summaries(data[size], part_a.LABELS, title, out / "monolithic.png")]


def distributed_overhead(data: Data, out: Path) -> list[str]:
    size = next(iter(data))
    title = f"Everything but the model, two processes, 2 x {size} uint8"
    return [_draw_summaries(data[size]["back to back"], part_b.LABELS, title, out / "distributed.png")]


def fleet(data: Data, out: Path) -> list[str]:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, by_count in data["loads"].items():
        counts = [int(count) for count in by_count]
        left.plot(counts, [own["throughput"] for own in by_count.values()], marker="o", label=name)
        right.plot(counts, [own["latency_p50"] for own in by_count.values()], marker="o", label=name)
    for axes, title in ((left, "inferences per second"), (right, "latency, ms (median)")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("robots")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return [_save(figure, out / "robots.png")]


def links(data: Data, out: Path) -> list[str]:
    rates = list(data["links"])
    figure, grid = plt.subplots(1, len(rates), figsize=(5 * len(rates), 3.6), squeeze=False)
    for axes, rate in zip(grid[0], rates, strict=True):
        for system, by_loss in data["links"][rate].items():
            measured = {loss: own for loss, own in by_loss.items() if own}
            line = axes.plot([*measured], [own["median_ms"] for own in measured.values()], marker="o", label=system)
            axes.plot([*measured], [own["p99_ms"] for own in measured.values()], ":", color=line[0].get_color())
        axes.set_yscale("log")
        axes.set_title(f"{rate}: median, dotted p99", fontsize=10)
        axes.set_xlabel("packets lost, %")
        axes.set_ylabel("ms")
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
    return [_save(figure, out / "links.png")]


def ticks(data: Data, out: Path) -> list[str]:
    figure, axes = plt.subplots(figsize=(8, 3.4))
    marks = ("jitter_p50", "jitter_p99", "jitter_p999", "jitter_max")
    for place, (name, own) in enumerate(data["runs"].items()):
        axes.plot([own[mark] for mark in marks], [place] * len(marks), "|-", markersize=14, label=name)
    axes.set_yticks(range(len(data["runs"])), list(data["runs"]), fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("|interval - period|, ms: p50, p99, p99.9, max")
    axes.set_title("Control tick while inference runs", fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    return [_save(figure, out / "ticks.png")]


DRAWINGS: dict[str, Callable[[Data, Path], list[str]]] = {
    "a": local_overhead,
    "b": distributed_overhead,
    "d": links,
    "e": fleet,
    "f": ticks,
}
