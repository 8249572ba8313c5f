"""The folder of an evaluation: the report as page, JSON and table, every picture as a file, finished
measurements.

    report.html, report.json, report.csv
    pictures/LORA/before-0000.png, after-0000.png, attacked-0000.png, prompts.json
    state/: what an interrupted evaluation resumes with (kept.py)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from ..files import remove, slug, write_picture, write_text
from .measure import Evaluation
from .page.document import document
from .page.shown import Shown
from .pictures import to_pil
from .summary import as_csv

STATE = "state"


def labels_of(paths: Sequence[Path]) -> list[str]:
    """A name for each LoRA file that no other has, usable as a folder's."""
    labels: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = slug(path.stem)
        label, number = stem, 1
        while label.lower() in taken:
            number += 1
            label = f"{stem}-{number}"
        taken.add(label.lower())
        labels.append(label)
    return labels


def result_of(reports: Sequence[dict]) -> dict:
    """The machine-readable result: the report of one LoRA, or those of several under "reports"."""
    if len(reports) == 1:
        return reports[0]
    result: dict = {"reports": list(reports)}
    if any("holds" in report for report in reports):
        result["holds"] = all(report.get("holds", True) for report in reports)
    return result


def save_pictures(evaluation: Evaluation, label: str, out: Path) -> None:
    """All pictures as files, and what was asked for and seen in them; files of an earlier report are gone."""
    folder = out / "pictures" / label
    for old in [*folder.glob("*.png"), folder / "prompts.json"]:
        remove(old)
    attacked = [] if evaluation.attacked is None else evaluation.attacked
    rows = (("before", evaluation.before), ("after", evaluation.after), ("attacked", attacked))
    for name, images in rows:
        for number, image in enumerate(images):
            write_picture(to_pil(image), folder / f"{name}-{number:04}.png")
    prompts = []
    seen = evaluation.seen or [(None, None)] * len(evaluation.prompts)
    for prompt, (before, after) in zip(evaluation.prompts, seen):
        prompts.append({"prompt": dataclasses.asdict(prompt), "before": before, "after": after})
    write_text(folder / "prompts.json", json.dumps(prompts, indent=1, ensure_ascii=False))


def write_reports(out: Path, shown: Sequence[Shown], blur: bool | None, repeat: Sequence[str]) -> None:
    """The report's three files."""
    reports = [one.report for one in shown]
    labels = [one.label for one in shown]
    write_text(out / "report.html", document(shown, blur, repeat))
    write_text(out / "report.json", json.dumps(result_of(reports), indent=1, ensure_ascii=False))
    write_text(out / "report.csv", as_csv(labels, reports))
