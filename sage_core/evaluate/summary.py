"""Erasures beside each other: a row each, for the terminal, the page and a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from .pictures import title

SHARES = ("concept", "synonyms", "near", "far", "attacked")
HEADINGS = ("concept", "other words", "near", "far", "attacked", "drift", "passes")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute


@dataclass(frozen=True)
class Value:
    """A cell of the table: the share after, the share before and the 95 % interval of the former; or drift or
    passes as `after` alone. None where it was not measured.
    """

    after: float | None
    before: float | None = None
    interval: Sequence[float] | None = None


def row(report: dict) -> dict[str, Value]:
    """The values under HEADINGS."""
    values = []
    for cell in SHARES:
        after, before = report["after"].get(cell), report["before"].get(cell)
        values.append(Value(after, before, interval_of(report, cell)))
    values += [Value(mean_drift(report)), Value(passes(report))]
    return dict(zip(HEADINGS, values))


def interval_of(report: dict, cell: str) -> Sequence[float] | None:
    """Of the share after: [low, high]."""
    if cell == "attacked":
        return report.get("attacks", {}).get(report.get("attacked_by"), {}).get("interval")
    return (report.get("interval") or {}).get(cell)


def mean_drift(report: dict) -> float | None:
    """Of near and far together."""
    values = [v for v in (report["drift"].get("near"), report["drift"].get("far")) if v is not None]
    return sum(values) / len(values) if values else None


def passes(report: dict) -> int | None:
    """UNet passes of the erasure, a backward one counted as two; None where nobody says."""
    cost = report.get("cost") or {}
    if not cost.get("seconds"):
        return None
    return cost["unet_forwards"] + 2 * cost["unet_backwards"]


def lines(labels: Sequence[str], reports: Sequence[dict]) -> list[str]:
    """The rows as text."""
    width = max(len("LoRA"), *(len(label) for label in labels))
    out = [f"{'LoRA':{width}}" + "".join(f"{name:>13}" for name in HEADINGS)]
    for label, report in zip(labels, reports):
        cells = []
        for name, value in row(report).items():
            digits = ".0f" if name == "passes" else ".3f" if name == "drift" else ".2f"
            cells.append("-" if value.after is None else format(value.after, digits))
        out.append(f"{label:{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return out


def as_csv(labels: Sequence[str], reports: Sequence[dict]) -> str:
    """Everything that was measured, a row a number: of each cell by each judge, and of each attack."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ["lora", "concept", "method", "judge", "measure", "before", "after", "low", "high", "drift"]
    )
    for label, report in zip(labels, reports):
        spec = report["spec"]
        first = [label, spec["concept"], spec.get("method", "")]
        for measured in _rows(report):
            table.writerow([_plain(cell) for cell in [*first, *measured]])
    return out.getvalue()


def _rows(report: dict) -> list[list]:
    """[judge, measure, before, after, low, high, drift] each."""
    judge = (report.get("judge") or {}).get("name", "")
    rows = []
    for cell, after in report["after"].items():
        ends = interval_of(report, cell) or (None, None)
        drift = report["drift"].get(cell)
        rows.append([judge, title(cell), report["before"].get(cell), after, *ends, drift])
    for further in report.get("further_judges", []):
        for cell, after in further["after"].items():
            ends = further["interval"].get(cell) or (None, None)
            rows.append([further["name"], title(cell), further["before"][cell], after, *ends, None])
    for name, attack in report.get("attacks", {}).items():
        for budget, before, after in zip(attack["budget"], attack["untouched"], attack["success"]):
            ends = attack["interval"] if budget == attack["budget"][-1] else (None, None)
            measure = f"attack {name}, {budget} {attack['unit']}"
            rows.append([judge, measure, before, after, *ends, None])
    return rows


def _plain(cell: object) -> object:
    """Text that a spreadsheet shows and does not compute: names come from files of strangers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
