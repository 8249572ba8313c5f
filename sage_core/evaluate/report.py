"""The report of an evaluation: report.json, report.html with the pictures inside, before_after.png."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import write_picture, write_text
from . import curves
from .keeping import section as kept
from .measure import Evaluation
from .page.document import document
from .page.shown import Shown
from .pictures import picture, title
from .sentences import agreed, judged, unasked, unprompted


def table(report: dict) -> str:
    """The report's numbers as a table for a terminal."""

    def cell(value) -> str:
        return "     -" if value is None else f"{value:6.2f}"

    lines = [f"{'':26}before   after   drift"]
    for name in _columns(report):
        lines.append(
            f"{title(name):24}  {cell(report['before'][name])}  {cell(report['after'][name])} "
            f" {cell(report['drift'].get(name))}".rstrip()
        )
    lines += curves.lines(report.get("attacks", {}))
    lines += kept.lines(report.get("keeping", {}))
    if "without_prompt" in report:
        lines.append(unprompted(report["without_prompt"]))
    if "style_unasked" in report:
        lines.append(unasked(report["style_unasked"]))
    if report.get("judge") is not None:
        lines.append(judged(report["judge"]))
    for judge in report.get("further_judges", []):
        lines += [f"{judge['name']}:", f"{'':26}before   after   agree"]
        for name in judge["after"]:
            values = (cell(judge[part][name]) for part in ("before", "after", "agreement"))
            lines.append(f"{title(name):24}  {'  '.join(values)}".rstrip())
        lines += [agreed(judge), judged(judge)]
    return "\n".join(lines + spent(report))


def spent(report: dict) -> list[str]:
    """A line on the cost of the erasure; none where nobody says."""
    cost = report.get("cost")
    if not cost:
        return []
    passes, peak = cost["unet_forwards"] + 2 * cost["unet_backwards"], cost["peak_memory_mb"]
    return [
        f"cost: {passes} UNet passes ({cost['unet_forwards']} forwards, {cost['unet_backwards']} backwards), "
        f"{cost['seconds']:.0f} s" + ("" if peak is None else f", peak memory {peak:.0f} MB")
    ]


def _columns(report: dict) -> list[str]:
    """The report's cells, and the attack last."""
    return [name for name in report["after"] if name != "attacked"] + ["attacked"]


def page(evaluation: Evaluation) -> str:
    """The page of one evaluation; of several: page/document.py."""
    return document([Shown.of(evaluation)])


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """report.json, report.html and before_after.png in `folder`."""
    write_text(folder / "report.json", json.dumps(evaluation.report, indent=1, ensure_ascii=False))
    write_text(folder / "report.html", page(evaluation))
    write_picture(picture(evaluation), folder / "before_after.png")
