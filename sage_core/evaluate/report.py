"""The report of an evaluation: report.json, report.html with the pictures inside, before_after.png."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path

import torch

from ..files import write_picture, write_text
from . import curves
from .cells import CELLS
from .measure import Evaluation
from .pictures import GREY, INK, PAPER, TITLES, picture, to_pil

STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: {INK}; background: {PAPER} }}
table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right }}
th[scope=row] {{ text-align: left }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 10px }}
figure {{ margin: 0; width: 96px; font-size: 11px; color: {GREY} }}
img {{ width: 96px; height: 96px; display: block; margin-bottom: 2px }}
pre {{ background: #f5f5f7; padding: 1rem; overflow: auto }}
"""


def table(report: dict) -> str:
    """The report's numbers as a table for a terminal."""

    def cell(value) -> str:
        return "     -" if value is None else f"{value:6.2f}"

    lines = [f"{'':26}before   after   drift"]
    for name in (*CELLS, "attacked"):
        lines.append(
            f"{TITLES[name]:24}  {cell(report['before'][name])}  {cell(report['after'][name])} "
            f" {cell(report['drift'].get(name))}".rstrip()
        )
    lines += curves.lines(report.get("attacks", {}))
    cost, passes = report["cost"], report["cost"]["unet_forwards"] + 2 * report["cost"]["unet_backwards"]
    peak = cost["peak_memory_mb"]
    if report.get("judge") is not None:
        lines.append(judged(report["judge"]))
    lines.append(
        f"cost: {passes} UNet passes ({cost['unet_forwards']} forwards, {cost['unet_backwards']} backwards), "
        f"{cost['seconds']:.0f} s" + ("" if peak is None else f", peak memory {peak:.0f} MB")
    )
    return "\n".join(lines)


def judged(judge: dict) -> str:
    """Who judged, and how sure that is."""
    text = (
        f"judged by {judge['name']}, which sees the concept in {judge['hits']:.0%} of the untouched model's"
        f" pictures of it, and in {judge['false_alarms']:.0%} of {judge['other_pictures']} of other things"
    )
    return text + (f"; {judge['cannot']}" if judge["cannot"] else "")


def page(evaluation: Evaluation) -> str:
    """A self-contained HTML page: the numbers, every picture before and after, the spec."""
    report = evaluation.report
    numbers = "".join(_row(report, cell) for cell in (*CELLS, "attacked"))
    attacks = curves.section(report.get("attacks", {}), report.get("attacked_by", ""))
    sections = attacks + "".join(_section(evaluation, c) for c in CELLS)
    if evaluation.attacked is not None:
        tiles = "".join(f"<figure><img alt='attack' src='{_data(i)}'></figure>" for i in evaluation.attacked)
        sections += (
            f"<h2>{TITLES['attacked']}</h2><p>What the erased model draws under the attack"
            f" {html.escape(report['attacked_by'])}.</p><div class=tiles>{tiles}</div>"
        )
    concept, cost = html.escape(report["spec"]["concept"]), report["cost"]
    return f"""<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>Erased: {concept}</title>
<style>{STYLE}</style>
<h1>Erased: {concept}</h1>
<p>Method {html.escape(report["spec"]["method"])}; {cost["unet_forwards"]} UNet forwards
and {cost["unet_backwards"]} backwards, {cost["seconds"]:.0f} s.
A number is the share of pictures in which the judge sees what the prompt asked for, with its 95 % interval;
drift is the mean pixel distance.</p><p>{html.escape(judged(report["judge"]) if report["judge"] else "")}</p>
<table><tr><th></th><th>before</th><th>after</th><th></th><th>drift</th></tr>{numbers}</table>{sections}
<h2>Spec</h2><pre>{html.escape(json.dumps(report["spec"], indent=1, ensure_ascii=False))}</pre></html>"""


def _row(report: dict, cell: str) -> str:
    before, after, drift = (report[part].get(cell) for part in ("before", "after", "drift"))
    return (
        f"<tr><th scope=row>{html.escape(TITLES[cell])}</th>"
        f"<td>{_percent(before)}</td><td>{_percent(after)}</td><td>{_interval(report, cell)}</td>"
        f"<td>{'' if drift is None else drift}</td></tr>"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _interval(report: dict, cell: str) -> str:
    ends = (report["interval"] or {}).get(cell)
    return "" if ends is None else f"{ends[0]:.0%} to {ends[1]:.0%}"


def _section(evaluation: Evaluation, cell: str) -> str:
    figures = "".join(
        f"<figure><img alt='before' src='{_data(evaluation.before[i])}'><img alt='after'"
        f" src='{_data(evaluation.after[i])}'>{html.escape(p.text)}</figure>"
        for i, p in enumerate(evaluation.prompts)
        if p.cell == cell
    )
    return (
        f"<h2>{TITLES[cell]}</h2><p>Before above, after below, same seed.</p><div class=tiles>{figures}</div>"
        if figures
        else ""
    )


def _data(image: torch.Tensor) -> str:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """report.json, report.html and before_after.png in `folder`."""
    write_text(folder / "report.json", json.dumps(evaluation.report, indent=1, ensure_ascii=False))
    write_text(folder / "report.html", page(evaluation))
    write_picture(picture(evaluation), folder / "before_after.png")
