"""The results for people: a page of Markdown and pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.options import PARTS

BEGIN, END = "<!-- results: scripts/bench --docs -->", "<!-- end of results -->"


def markdown(result: dict[str, Any]) -> str:
    """Tables, goals and notes, part by part."""
    lines = [f"`{result['command']}` on:", ""]
    lines += [f"- {key}: {value}" for key, value in result["machine"].items()]
    goals = [goal for part in result["parts"].values() for goal in part.get("goals", [])]
    if goals:
        lines += ["", "### Goals", "", *_table(_goal_rows(goals))]
    for letter, part in result["parts"].items():
        lines += ["", f"### ({letter}) {PARTS[letter]}", ""]
        if "error" in part:
            lines += [f"Failed: {part['error']}"]
            continue
        for title, rows in part["tables"].items():
            lines += [f"**{title}**", "", *_table(rows), ""]
        lines += [f"- {note}" for note in part["notes"]]
    return "\n".join(lines) + "\n"


def write_docs(text: str, pictures: list[Path], page: Path) -> None:
    """Put ``text`` and ``pictures`` (as ``images/bench_*.png`` beside the page) between the marks of ``page``.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: wants the lines {BEGIN} and {END}")
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    links = []
    for picture in pictures:
        shutil.copyfile(picture, images / f"bench_{picture.name}")
        links.append(f"![{picture.stem}](images/bench_{picture.name})\n")
    page.write_text("\n".join([before + begin, "", text.rstrip(), "", *links, ""]).rstrip() + "\n\n" + end + after)


def _goal_rows(goals: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["goal", "measured", "wanted", ""]]
    for goal in goals:
        wanted = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:g}"
        rows.append([goal["goal"], f"{goal['value']:.3g}", wanted, "met" if goal["met"] else _missed_by(goal)])
    return rows


def _missed_by(goal: dict[str, Any]) -> str:
    value, limit = goal["value"], goal["limit"]
    factor = limit / value if goal["at_least"] and value else value / limit
    return f"missed by a factor of {factor:.2f}"


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]


def write_plots(result: dict[str, Any], out: Path) -> list[str]:
    """Pictures of what there is, as PNG in ``out``; their names."""
    import matplotlib

    matplotlib.use("Agg")
    from benchmarks import plots

    written = []
    for letter, draw in plots.DRAWINGS.items():
        part = result["parts"].get(letter, {})
        if "data" in part:
            written += draw(part["data"], out)
    return written
