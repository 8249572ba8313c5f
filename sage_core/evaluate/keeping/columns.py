"""The numbers of report["keeping"] as columns: for --require, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

PREFIX = "keeping."
UNBOUNDED = (PREFIX + "fid", PREFIX + "kid")  # whose bounds may be above 1
COLUMNS = tuple(
    PREFIX + name
    for name in ("ripple", "content", "natural", "fid", "kid")
    + ("clip.near", "clip.far", "lpips.near", "lpips.far")
)


def measured(report: dict, column: str) -> tuple[float | None, str]:
    """The value that a claim about the column is about, and how it came about, in words.

    ripple: the least share kept of any bin. content: the share kept. natural: the share of the pictures in
    the concept's place that look usual. clip: the score after, of the score before. fid, kid: of the first
    judge that has features.
    """
    keeping, name = report.get("keeping") or {}, column.removeprefix(PREFIX)
    part, _, cell = name.partition(".")
    own = keeping.get("features" if part in ("fid", "kid") else part)
    if not own:
        reason = keeping.get("absent", {}).get("features" if part in ("fid", "kid") else part)
        return None, f"not measured: {reason}" if reason else "not measured"
    if part == "ripple":
        return own["least"], f"measured {own['least']:.3g} in the bin that is kept least"
    if part == "content":
        if own["kept"] is None:
            return None, f"not measured: no {own['stays']} were seen before"
        return own["kept"], f"measured {own['kept']:.3g}{_between(own['interval'])}"
    if part == "natural":
        usual = own["after"]
        return usual["usual"], f"measured {usual['usual']:.3g}{_between(usual['interval'])}"
    if part in ("fid", "kid"):
        chance = own[0]["other_seeds"][part]
        return own[0][part], f"measured {own[0][part]:.3g}; {chance:.3g} between other seeds"
    if part == "lpips":
        value = own["cells"].get(cell)
        return (None, "not measured") if value is None else (value["mean"], _mean(value))
    return _clip(own.get(cell))


def _clip(cell: dict | None) -> tuple[float | None, str]:
    if cell is None or not cell["before"]["mean"]:
        return None, "not measured"
    before, after = cell["before"]["mean"], cell["after"]["mean"]
    return round(after / before, 4), f"measured {after / before:.3g}: {after:.4g} after, {before:.4g} before"


def _mean(value: dict) -> str:
    return f"measured {value['mean']:.3g}{_between(value['interval'])}"


def _between(ends: list[float] | None) -> str:
    return "" if ends is None else f", 95 % interval {ends[0]:.3g} to {ends[1]:.3g}"


Row = tuple[str, float | None, float | None, float | None]  # name, value, and the ends of its interval


def rows(keeping: dict) -> list[Row]:
    """Every number of report["keeping"] by a name, with its 95 % interval where it has one."""
    out: list[Row] = []
    for number, part in enumerate(keeping.get("ripple", {}).get("bins", ()), 1):
        out.append((f"ripple.{number}.distance", part["distance"], part["from"], part["to"]))
        out.append((f"ripple.{number}.kept", part["kept"], *part["interval"]))
    if own := keeping.get("content"):
        out.append((f"content.{own['stays']}", own["kept"], *(own["interval"] or (None, None))))
    for cell, value in keeping.get("drift", {}).items():
        out.append(_row(f"drift.{cell}", value))
    for cell, values in keeping.get("clip", {}).items():
        out += [_row(f"clip.{cell}.{when}", values[when]) for when in ("before", "after")]
    for cell, value in keeping.get("lpips", {}).get("cells", {}).items():
        out.append(_row(f"lpips.{cell}", value))
    for own in keeping.get("features", ()):
        for name in ("fid", "kid"):
            out.append((f"{name} ({own['over']})", own[name], None, None))
            out.append((f"{name}, other seeds ({own['over']})", own["other_seeds"][name], None, None))
    for when in ("before", "after"):
        if own := keeping.get("natural", {}).get(when):
            out.append((f"natural.{when}", own["usual"], *own["interval"]))
            out.append(_row(f"natural.{when}.percentile", own["percentile"]))
    return out


def _row(name: str, value: dict) -> Row:
    return (name, value["mean"], *(value["interval"] or (None, None)))


def as_csv(labels: Sequence[str], keepings: Sequence[dict]) -> str:
    """`rows` of each LoRA, with a heading. Of a ripple's distance, low and high are the ends of the bin."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lora", "measure", "value", "low", "high"])
    for label, keeping in zip(labels, keepings):
        writer.writerows([label, *row] for row in rows(keeping))
    return text.getvalue()
