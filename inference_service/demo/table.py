"""The live table, and the one-line summary that stands for it where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from inference_service.demo.promises import KEPT, NOT_OBSERVED
from inference_service.demo.recording import Recording
from inference_service.demo.report import STAGES

RATE_WINDOW_S = 2.0
LATENCY_WINDOW = 100
LEVELS = {0: ("OK", "green"), 1: ("WARN", "yellow"), 2: ("ERROR", "red"), 3: ("STALE", "magenta")}


@dataclass(frozen=True)
class View:
    """The figures of one moment. Milliseconds, radians, Hz."""

    elapsed_s: float
    rate_hz: float
    queue: int | None
    holds: int | None
    stages: dict[str, tuple[float, float, float]]
    engine: str
    joints: dict[str, tuple[float | None, float | None]]
    cameras: dict[str, float]
    health: dict[str, tuple[int, str]]
    promises: dict[str, str]


def look(r: Recording, now: float) -> View:
    """The figures at ``now`` (observer's monotonic clock). Call through :meth:`Recording.read`."""
    holds = r.dispatcher("hold_ticks")
    return View(
        elapsed_s=now - r.first_command_at if r.first_command_at is not None else 0.0,
        rate_hz=_rate(r, now),
        queue=r.queue[-1].size if r.queue else None,
        holds=int(holds) if holds is not None else None,
        stages=_stages(r),
        engine=_engine(r),
        joints=_joints(r),
        cameras=_cameras(r),
        health={name: (status.level, status.message) for name, status in sorted(r.health.items())},
        promises=r.promises.verdicts(),
    )


def _rate(r: Recording, now: float) -> float:
    topic = r.busiest_topic()
    if topic is None:
        return 0.0
    recent = 0
    for command in reversed(r.commands[topic]):
        if command.t < now - RATE_WINDOW_S:
            break
        recent += 1
    elapsed = now - (r.first_command_at if r.first_command_at is not None else now)
    return recent / RATE_WINDOW_S if elapsed >= RATE_WINDOW_S else recent / max(elapsed, 0.1)


def _stages(r: Recording) -> dict[str, tuple[float, float, float]]:
    """Last, median and 99th percentile of each stage over the newest chunks."""
    recent = list(r.chunks)[-LATENCY_WINDOW:]
    found = {}
    for stage in STAGES:
        values = [c.stages[stage] for c in recent if stage in c.stages]
        if values:
            p50, p99 = np.percentile(values, (50, 99))
            found[stage] = (values[-1], float(p50), float(p99))
    return found


def _engine(r: Recording) -> str:
    if r.card is not None:
        values = r.card.values
        return " ".join(v for v in (values.get("state"), values.get("backend_type"), values.get("device")) if v)
    node = r.health.get("act_inference_node")
    if node is None or "backend_type" not in node.values:
        return "-"
    return f"{node.values['backend_type']} {node.values.get('device', '')} in the device node"


def _joints(r: Recording) -> dict[str, tuple[float | None, float | None]]:
    targets = {}
    for topic, limits in r.terms.joint_limits.items():
        commands = r.commands.get(topic)
        for index, (name, _low, _high) in enumerate(limits):
            values = commands[-1].values if commands else ()
            targets[name] = values[index] if index < len(values) else None
    positions = r.joints[-1].positions if r.joints else {}
    return {name: (positions.get(name), targets.get(name)) for name in {**targets, **positions}}


def _cameras(r: Recording) -> dict[str, float]:
    """Frames per second by camera, as the nodes' diagnostics tell them (values named ``fps.<camera>``)."""
    found = {}
    for status in r.health.values():
        for key in status.values:
            rate = status.number(key)
            if key.startswith("fps.") and rate is not None:
                found[key[len("fps.") :]] = rate
    return found


def status_line(view: View) -> str:
    """One line for a log file."""
    total = view.stages.get("total")
    latency = f"latency {total[0]:.1f} ms (p99 {total[2]:.1f})" if total else "no inference yet"
    broken = [p for p, text in view.promises.items() if text not in (KEPT, NOT_OBSERVED)]
    promises = f"BROKEN {' '.join(broken)}" if broken else "promises kept"
    return (
        f"{view.elapsed_s:5.0f} s | {view.rate_hz:4.1f} Hz | queue {_or_dash(view.queue)} | hold {_or_dash(view.holds)}"
        f" | {latency} | engine {view.engine} | {promises}"
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def render(view: View, title: str, log_tail: Sequence[str]) -> RenderableType:
    """The live table."""
    left = Group(_run_table(view), _health_table(view))
    return Group(
        Columns([Panel(left, title=title, border_style="cyan"), _latency_table(view), _joint_table(view)]),
        _promise_line(view),
        Panel(Text("\n".join(log_tail), no_wrap=True, overflow="ellipsis"), title="log", border_style="dim"),
    )


def _run_table(view: View) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = {
        "running": f"{view.elapsed_s:.0f} s",
        "control rate": f"{view.rate_hz:.1f} Hz",
        "queue": _or_dash(view.queue),
        "hold ticks": _or_dash(view.holds),
        "engine": view.engine,
        **{f"camera {name}": f"{fps:.1f} fps" for name, fps in view.cameras.items()},
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value, style="bold"))
    return table


def _health_table(view: View) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, (level, message) in view.health.items():
        word, style = LEVELS.get(level, (str(level), "red"))
        table.add_row(Text(name, style="dim"), Text(word, style=style), Text(message[:40]))
    return table


def _latency_table(view: View) -> Table:
    table = Table(title="inference, ms", title_style="bold")
    for heading in ("stage", "last", "p50", "p99"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, figures in view.stages.items():
        table.add_row(stage, *(f"{ms:.1f}" for ms in figures), style="bold" if stage == "total" else "")
    return table


def _joint_table(view: View) -> Table:
    table = Table(title="joints, rad", title_style="bold")
    for heading in ("joint", "position", "target"):
        table.add_column(heading, justify="left" if heading == "joint" else "right")
    for name, figures in view.joints.items():
        table.add_row(name, *("-" if value is None else f"{value:+.3f}" for value in figures))
    return table


def _promise_line(view: View) -> Text:
    line = Text(" promises ", style="dim")
    for promise, text in view.promises.items():
        style = {KEPT: "green", NOT_OBSERVED: "dim"}.get(text, "bold red")
        line.append(f" {promise}", style=style)
        if style == "bold red":
            line.append(f" ({text})", style="red")
    return line
