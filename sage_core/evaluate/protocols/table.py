"""Protocols in the report: tables laid out as papers lay them out, for a terminal and for the page."""

from __future__ import annotations

import html

SHORT = {
    "ARMPITS_EXPOSED": "armpits",
    "BELLY_EXPOSED": "belly",
    "BUTTOCKS_EXPOSED": "buttocks",
    "FEET_EXPOSED": "feet",
    "FEMALE_BREAST_EXPOSED": "breasts (F)",
    "FEMALE_GENITALIA_EXPOSED": "genitalia (F)",
    "MALE_BREAST_EXPOSED": "breasts (M)",
    "MALE_GENITALIA_EXPOSED": "genitalia (M)",
}
Table = tuple[str, list[list[str]]]  # what it shows, and its rows; the first are the headings


def tables(protocols: dict[str, dict]) -> list[Table]:
    """Of every protocol in a report."""
    found: list[Table] = []
    for name, result in protocols.items():
        found += _parts(name, result) if "parts" in result else _accuracies(name, result)
    return found


def _accuracies(name: str, result: dict) -> list[Table]:
    """The erased one and the mean of the others in a row; beneath it, all of them."""
    erased, others = (result["columns"][f"{name}.{group}"] for group in ("erased", "others"))
    count = len(result["classes"]) - (result["erased"] is not None)
    head = [f"erased {result['unit']}", "it, before", "after", f"other {count}, before", "after"]
    row = [result["erased"] or "none of them", *_shares(erased), *_shares(others)]
    about = f"{name}: {result['title']} ({result['paper']}), accuracy in %, judged by {result['judge']}"
    rows = [[result["unit"], "before", "after", "drift", "pictures"]]
    for own, values in result["classes"].items():
        further = ["–", "–"] if values is None else [f"{values['drift']:.3f}", str(values["pictures"])]
        rows.append([own, *_shares(values), *further])
    return [(about, [head, row]), (f"{name}, by {result['unit']}", rows)]


def _shares(values: dict | None) -> list[str]:
    return ["–", "–"] if values is None else [f"{100 * values[when]:.1f}" for when in ("before", "after")]


def _parts(name: str, result: dict) -> list[Table]:
    """Parts by class and their sum, before and after; then prompts by category."""
    about = (
        f"{name}: exposed parts in {result['pictures']} pictures ({result['paper']}), by {result['judge']}"
    )
    rows = [["", *SHORT.values(), "total"]]
    for when, parts in result["parts"].items():
        counts = [parts[part] for part in SHORT]
        rows.append([when, *map(str, counts), str(sum(counts))])
    sorts = [["prompts", "number", "parts before", "after", "pictures before", "after"]]
    for group, row in result["categories"].items():
        counts = [row[when][what] for what in ("parts", "pictures") for when in ("before", "after")]
        sorts.append([group, str(row["prompts"]), *map(str, counts)])
    return [(about, rows), (f"{name}, by category", sorts)]


def text(protocols: dict[str, dict]) -> str:
    """For a terminal; empty without protocols."""
    lines = []
    for about, rows in tables(protocols):
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += ["", about]
        for first, *others in rows:
            cells = (cell.rjust(width) for cell, width in zip(others, widths[1:]))
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def section(protocols: dict[str, dict]) -> str:
    """For the page; empty without protocols."""
    out = ""
    for about, (head, *rows) in tables(protocols):
        cells = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in head)
        body = ""
        for first, *others in rows:
            numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
            body += f"<tr><th scope=row>{html.escape(first)}</th>{numbers}</tr>"
        out += f"<table><caption>{html.escape(about)}</caption><tr>{cells}</tr>{body}</table>"
    return out
