"""The parts of the page below an erasure's table, each from the report alone.

Another measurement adds its part here: a title and a function from the report to HTML, empty where the report
does not have it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable

from .. import curves
from ..keeping.section import section as kept
from ..pictures import title
from ..protocols.table import section as protocol_tables
from ..sentences import agreed, judged, unasked, unprompted
from ..summary import interval_of

Section = tuple[str, Callable[[dict], str]]


def escaped(value: object) -> str:
    return html.escape(str(value))


def sentence(text: str) -> str:
    return escaped(text[:1].upper() + text[1:]) + "."


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def interval(ends) -> str:
    return "" if ends is None else f"{ends[0]:.0%} to {ends[1]:.0%}"


def table(caption: str, headings: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A table of numbers. rows: a heading as text, and cells as HTML."""
    top = "".join(f"<th scope=col>{escaped(h)}</th>" for h in headings)
    body = ""
    for name, cells in rows:
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f"<tr><th scope=row>{escaped(name)}</th>{numbers}</tr>"
    return (
        f"<div class=scroll tabindex=0 role=region aria-label='{escaped(caption)}'><table class=numbers>"
        f"<caption>{escaped(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def measured(report: dict) -> str:
    """Every cell before and after, and who judged."""
    rows = []
    for cell in [*(name for name in report["after"] if name != "attacked"), "attacked"]:
        drift = report["drift"].get(cell)
        after = report["after"].get(cell)
        rows.append(
            (
                title(cell),
                [
                    percent(report["before"].get(cell)),
                    percent(after),
                    interval(interval_of(report, cell)),
                    "" if drift is None else f"{drift:.4f}",
                ],
            )
        )
    out = table(
        "Share of pictures in which the judge sees what was asked for",
        ["asked for", "before", "after", "95 % interval", "drift"],
        rows,
    )
    if report.get("judge"):
        out += f"<p>{sentence(judged(report['judge']))}</p>"
    if "without_prompt" in report:
        out += f"<p>{sentence(unprompted(report['without_prompt']))}</p>"
    if "style_unasked" in report:
        out += f"<p>{sentence(unasked(report['style_unasked']))}</p>"
    if report.get("guarded"):
        out += f"<p>With a guard against {escaped(', '.join(report['guarded']))}.</p>"
    return out


def claims(report: dict) -> str:
    """What was required, and whether it holds."""
    lines = "".join(f"<li>{escaped(result['sentence'])}</li>" for result in report.get("requirements", []))
    return lines and f"<ul>{lines}</ul>"


def attacks(report: dict) -> str:
    return curves.section(report.get("attacks", {}), report.get("attacked_by", ""))


def opinions(report: dict) -> str:
    """Further judges of the same pictures."""
    out = ""
    for judge in report.get("further_judges", []):
        rows = []
        for cell in judge["after"]:
            values = [judge[part][cell] for part in ("before", "after", "agreement")]
            rows.append((title(cell), [percent(value) for value in values]))
        out += table(
            f"Judged by {judge['name']}",
            ["asked for", "before", "after", "agrees with the first judge"],
            rows,
        )
        out += f"<p>{sentence(agreed(judge))} {sentence(judged(judge))}</p>"
    return out


def recipe(report: dict) -> str:
    """How it was made: the spec and all metadata of the file, to the letter."""
    parts = [("Spec", report["spec"])]
    parts += [(name, report[key]) for name, key in (("Model", "model"), ("File", "lora")) if report.get(key)]
    if report.get("metadata"):
        parts.append(("Metadata of the file", report["metadata"]))
    out = ""
    for name, value in parts:
        out += f"<details><summary>{name}</summary><pre tabindex=0>{escaped(as_json(value))}</pre></details>"
    path = report.get("lora", {}).get("path")
    source = report.get("model", {}).get("source", "MODEL")
    if path:
        out += "<p>To erase the same again:</p>" + command(["sage-erase", "erase", source, "--from", path])
    return out


def as_json(value: dict) -> str:
    """Valid JSON with a line for each of its names."""
    lines = [json.dumps({key: part}, ensure_ascii=False)[1:-1] for key, part in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def command(words: list[str]) -> str:
    """A command line that a shell reads back as these words."""
    text = " ".join(_quoted(word) for word in words)
    return f"<pre class=command tabindex=0>{escaped(text)}</pre>"


def _quoted(word: str) -> str:
    """Double quotes mean the same to the shells of all systems, where nothing in them is special."""
    plain = word and all(c.isalnum() or c in "-_./\\:=,+@%" for c in word)
    if plain:
        return word
    return f'"{word}"' if not set(word) & set('"$`\\!') else "'" + word.replace("'", "'\\''") + "'"


SECTIONS: list[Section] = [
    ("Required", claims),
    ("Attacks", attacks),
    ("What was kept", lambda report: kept(report.get("keeping", {}))),
    ("Protocols", lambda report: protocol_tables(report.get("protocols", {}))),
    ("Further judges", opinions),
    ("Recipe", recipe),
]
