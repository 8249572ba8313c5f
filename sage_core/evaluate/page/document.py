"""The whole page. It loads nothing from outside, and its policy forbids that it could."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..pictures import TITLES
from ..summary import HEADINGS, Value, row
from .sections import SECTIONS, command, escaped, interval, measured, percent
from .sheets import sheets
from .shown import Shown
from .unsafe import is_unsafe

HERE = Path(__file__).parent
MEANING = {
    "concept": f"{TITLES['concept']}: less is better",
    "other words": f"{TITLES['synonyms']}: less is better",
    "near": f"{TITLES['near']}: as before is best",
    "far": f"{TITLES['far']}: as before is best",
    "attacked": "under the strongest attack that was run: less is better",
    "drift": "mean pixel distance of near and far from before, 0 to 1",
    "passes": "UNet passes of the erasure, a backward one counted as two",
}


def document(shown: Sequence[Shown], blur: bool | None = None, repeat: Sequence[str] = ()) -> str:
    """HTML of these erasures. blur: pictures are hidden until they are asked for; None: where the concept is
    unsafe. repeat: the words of the command that measures the same again.
    """
    veiled = {s.label: is_unsafe(s.report) if blur is None else blur for s in shown}
    concepts = ", ".join(dict.fromkeys(s.report["spec"]["concept"] for s in shown))
    script = (HERE / "script.js").read_text(encoding="utf-8").strip()
    style = (HERE / "style.css").read_text(encoding="utf-8").strip()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    groups = _groups(shown)
    body = "".join(_group(group, any(veiled[one.label] for one in group)) for group in groups)
    again = f"<h2>Measured by</h2>{command(list(repeat))}" if repeat else ""
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy content="{policy}">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Erased: {escaped(concepts)}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>Erased: {escaped(concepts)}</h1>
<p>A percentage is the share of pictures in which a judge sees what the prompt asked for (of a list of
prompts: the erased concept), with its 95 % interval. Before and after are drawn from the same prompts and
seeds.</p>
{_tools(len(shown), any(veiled.values()))}
</header>
<main>
{_summary(shown)}
{body}
{again}
</main>
<script>{script}</script>
</body>
</html>
"""


def _groups(shown: Sequence[Shown]) -> list[list[Shown]]:
    """Erasures of one concept that were measured on the same pictures stand beside each other."""
    groups: list[list[Shown]] = []
    for one in shown:
        for group in groups:
            if one.same_prompts(group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _tools(count: int, veiled: bool) -> str:
    search = (
        "<label>Filter <input type=search id=filter placeholder='concept, method or file'></label>"
        f"<span id=count role=status>{count} of {count}</span>"
        if count > 1
        else ""
    )
    show = "<button type=button id=show aria-pressed=false>Show all pictures</button>" if veiled else ""
    return f"<div class=tools>{search}{show}</div>" if search or show else ""


def _summary(shown: Sequence[Shown]) -> str:
    """A row an erasure; a click on a heading sorts."""
    top = "".join(_heading(name, MEANING.get(name, "")) for name in ("LoRA", "concept ", "method", *HEADINGS))
    body = ""
    for one in shown:
        spec = one.report["spec"]
        link = f"<a href='#{_anchor(one)}'>{escaped(one.label)}</a>"
        names = (spec["concept"], spec.get("method", "–"))
        cells = "".join(f"<td class=text>{escaped(name)}</td>" for name in names)
        for name, value in row(one.report).items():
            cells += _number(name, value)
        body += f"<tr data-of='{_anchor(one)}'><th scope=row>{link}</th>{cells}</tr>"
    return (
        "<section aria-labelledby=summary><h2 id=summary>Summary</h2>"
        "<div class=scroll tabindex=0 role=region aria-labelledby=summary><table class=summary>"
        f"<caption class=hidden>One row a LoRA; the buttons in the headings sort</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _heading(name: str, meaning: str) -> str:
    label = {"concept ": "erased", "concept": "its name"}.get(name, name)
    return (
        f"<th scope=col aria-sort=none><button type=button title='{escaped(meaning or name)}'>"
        f"{escaped(label)}</button></th>"
    )


def _number(name: str, value: Value) -> str:
    """A cell that sorts by its value after."""
    if value.after is None:
        return "<td>–</td>"
    sort = f"data-value={value.after!r}"
    if name == "passes":
        return f"<td {sort}>{value.after:,.0f}</td>"
    if name == "drift":
        return f"<td {sort}>{value.after:.3f}</td>"
    notes = [] if value.before is None else [f"before: {percent(value.before)}"]
    notes += [] if value.interval is None else [interval(value.interval)]
    small = "".join(f"<small>{note}</small>" for note in notes)
    return f"<td {sort}><b>{percent(value.after)}</b>{small}</td>"


def _anchor(shown: Shown) -> str:
    """An id for a link; labels are unlike each other."""
    return "lora-" + hashlib.sha256(shown.label.encode()).hexdigest()[:12]


def _group(group: list[Shown], blur: bool) -> str:
    """A concept: its pictures, then what was measured of each erasure."""
    concept = escaped(group[0].report["spec"]["concept"])
    owners = " ".join(_anchor(shown) for shown in group)
    note = "<p>The pictures are hidden; press one to show it.</p>" if blur else ""
    parts = "".join(_erasure(shown) for shown in group)
    return (
        f"<section class=concept data-of='{owners}'><h2>{concept}</h2><h3>Pictures</h3>{note}"
        f"{sheets(group, blur)}{parts}</section>"
    )


def _erasure(shown: Shown) -> str:
    report = shown.report
    method = f" (method {escaped(report['spec']['method'])})" if report["spec"].get("method") else ""
    out = f"<section class=erasure data-of='{_anchor(shown)}' id={_anchor(shown)}>"
    out += f"<h3>{escaped(shown.label)}{method}</h3>{measured(report)}"
    for name, section in SECTIONS:
        if content := section(report):
            out += f"<h4>{escaped(name)}</h4>{content}"
    return out + "</section>"
