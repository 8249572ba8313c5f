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
from .measure import Evaluation, cells_of
from .pictures import GREY, INK, PAPER, TITLES, picture, title, to_pil
from .protocols.table import section as protocol_tables

MOST_SHOWN = 100  # pictures of a cell on the page
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
    for name in _columns(report):
        lines.append(
            f"{title(name):24}  {cell(report['before'][name])}  {cell(report['after'][name])} "
            f" {cell(report['drift'].get(name))}".rstrip()
        )
    lines += curves.lines(report.get("attacks", {}))
    cost, passes = report["cost"], report["cost"]["unet_forwards"] + 2 * report["cost"]["unet_backwards"]
    peak = cost["peak_memory_mb"]
    if "without_prompt" in report:
        lines.append(unprompted(report["without_prompt"]))
    if report.get("judge") is not None:
        lines.append(judged(report["judge"]))
    for judge in report.get("further_judges", []):
        lines += [f"{judge['name']}:", f"{'':26}before   after   agree"]
        for name in judge["after"]:
            values = (cell(judge[part][name]) for part in ("before", "after", "agreement"))
            lines.append(f"{title(name):24}  {'  '.join(values)}".rstrip())
        lines += [agreed(judge), judged(judge)]
    lines.append(
        f"cost: {passes} UNet passes ({cost['unet_forwards']} forwards, {cost['unet_backwards']} backwards), "
        f"{cost['seconds']:.0f} s" + ("" if peak is None else f", peak memory {peak:.0f} MB")
    )
    return "\n".join(lines)


def _columns(report: dict) -> list[str]:
    """The report's cells, and the attack last."""
    return [name for name in report["after"] if name != "attacked"] + ["attacked"]


def judged(judge: dict) -> str:
    """Who judged, and how sure that is."""
    text = (
        f"judged by {judge['name']}, which sees the concept in {judge['hits']:.0%} of the untouched model's"
        f" pictures of it, and in {judge['false_alarms']:.0%} of {judge['other_pictures']} of other things"
    )
    return text + (f"; {judge['cannot']}" if judge["cannot"] else "")


def unprompted(shares: dict[str, float]) -> str:
    """What edits keep of the concept without being told."""
    text = ", ".join(f"{share:.0%} at {cell.removeprefix('edit-')}" for cell, share in shares.items())
    return f"of the edits, the concept is left even by the untouched model with an empty prompt in {text}"


def agreed(judge: dict) -> str:
    """How far a further judge agrees with the first."""
    if judge["kappa"] is None:
        return "Cohen's kappa is undefined: both judges say the same of all pictures"
    return f"Cohen's kappa with the first judge: {judge['kappa']:.2f}"


def page(evaluation: Evaluation) -> str:
    """A self-contained HTML page: the numbers, every picture before and after, the spec."""
    report = evaluation.report
    numbers = "".join(_row(report, cell) for cell in _columns(report))
    edits = f"<p>{unprompted(report['without_prompt'])}</p>" if "without_prompt" in report else ""
    claims = _claims(report) if "requirements" in report else ""
    protocols = protocol_tables(report.get("protocols", {}))
    opinions = "".join(_opinion(judge) for judge in report.get("further_judges", []))
    attacks = curves.section(report.get("attacks", {}), report.get("attacked_by", ""))
    sections = attacks + "".join(_section(evaluation, c) for c in cells_of(evaluation.prompts))
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
A number is the share of pictures in which the judge sees what the prompt asked for (of a list of prompts: the
erased concept), with its 95 % interval; drift is the mean pixel distance.</p>
<p>{html.escape(judged(report["judge"]) if report["judge"] else "")}</p>
<table><tr><th></th><th>before</th><th>after</th><th></th><th>drift</th></tr>{numbers}</table>{edits}{claims}{protocols}{opinions}{sections}
<h2>Spec</h2><pre>{html.escape(json.dumps(report["spec"], indent=1, ensure_ascii=False))}</pre></html>"""


def _row(report: dict, cell: str) -> str:
    before, after, drift = (report[part].get(cell) for part in ("before", "after", "drift"))
    return (
        f"<tr><th scope=row>{html.escape(title(cell))}</th>"
        f"<td>{_percent(before)}</td><td>{_percent(after)}</td><td>{_interval(report, cell)}</td>"
        f"<td>{'' if drift is None else drift}</td></tr>"
    )


def _opinion(judge: dict) -> str:
    """A further judge's table."""
    rows = ""
    for cell in judge["after"]:
        values = (judge[part][cell] for part in ("before", "after", "agreement"))
        numbers = "".join(f"<td>{_percent(value)}</td>" for value in values)
        rows += f"<tr><th scope=row>{html.escape(title(cell))}</th>{numbers}</tr>"
    return (
        f"<h2>Judged by {html.escape(judge['name'])}</h2><table><tr><th></th><th>before</th><th>after</th>"
        f"<th>agrees with the first judge</th></tr>{rows}</table>"
        f"<p>{html.escape(agreed(judge))}. {html.escape(judged(judge))}</p>"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _interval(report: dict, cell: str) -> str:
    ends = (report["interval"] or {}).get(cell)
    return "" if ends is None else f"{ends[0]:.0%} to {ends[1]:.0%}"


def _claims(report: dict) -> str:
    """What was required, and whether it holds."""
    lines = "".join(f"<li>{html.escape(result['sentence'])}</li>" for result in report["requirements"])
    return f"<h2>Required</h2><ul>{lines}</ul>"


def _section(evaluation: Evaluation, cell: str) -> str:
    """A cell's pictures, as many as somebody looks at."""
    index = [i for i, prompt in enumerate(evaluation.prompts) if prompt.cell == cell]
    if not index:
        return ""
    figures = ""
    for i in index[:MOST_SHOWN]:
        before, after = _data(evaluation.before[i]), _data(evaluation.after[i])
        words = html.escape(evaluation.prompts[i].text)
        figures += f"<figure><img alt='before' src='{before}'><img alt='after' src='{after}'>{words}</figure>"
    some = f" The first {MOST_SHOWN} of {len(index)}." if len(index) > MOST_SHOWN else ""
    return (
        f"<h2>{html.escape(title(cell))}</h2><p>Before above, after below, same seed.{some}</p>"
        f"<div class=tiles>{figures}</div>"
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
