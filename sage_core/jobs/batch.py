"""Many erasures from one model: a job file in, a LoRA for each concept and one summary out.

What is there already is not made again.

Under `accelerate launch` the processes share the concepts, a GPU each. Erasures do not need each other, so no
gradient travels and the LoRAs are the same as from one process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..files import parse_json, write_picture, write_text
from ..lora.file import read_lora
from ..spec import ErasureSpec, parse_concepts
from .make import Maker, Report, about_file, with_preview
from .names import is_of, stems

if TYPE_CHECKING:
    from ..evaluate.file import Measuring

MAX_JOBS = 10_000
ACROSS = 4  # pictures beside each other on the sheet
MOST_SHOWN = 100  # pictures on it; more than that nobody looks at
COLUMNS = ("concept", "method", "LoRA", "UNet passes", "seconds", "")


def read_jobs(path: Path, settings: dict) -> list[ErasureSpec]:
    """The erasures of a job file: lines as `parse_concepts` reads them, or, in a .json file, a list of
    concepts and of specs. `settings`: fields of the specs that do not say otherwise.
    """
    try:
        text = path.read_text(encoding="utf-8")
        jobs = (
            parse_json(text)
            if path.suffix.lower() == ".json"
            else [{"concept": c, "synonyms": list(s)} for c, s in parse_concepts(text)]
        )
    except (OSError, ValueError) as error:
        raise SageError(
            f"The job file {path.name} cannot be read ({error}); it is UTF-8 text with one concept a line, or"
            " a JSON list."
        ) from error
    if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_JOBS:
        raise SageError(
            f"A JSON job file is a list of 1 to {MAX_JOBS:,} erasures, each a concept or an object of a"
            " spec's fields."
        )
    specs = []
    for number, job in enumerate(jobs, 1):
        given = job if isinstance(job, dict) else {"concept": job} if isinstance(job, str) else {}
        try:
            specs.append(ErasureSpec.from_json(settings | given))
        except SageError as error:
            raise SageError(f"{path.name}, erasure {number}: {error}") from error
    return specs


def own_share() -> tuple[int, int]:
    """(number of this process, how many there are), as `accelerate launch` and torchrun tell it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def process_state(**options):
    """accelerate's state of this process.

    Raises SageError where accelerate is not installed: only several processes need it.
    """
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise SageError(
            f"WORLD_SIZE is {own_share()[1]}, so several processes share the work, which needs accelerate; "
            "install it with: pip install accelerate"
        ) from error
    return PartialState(**options)


def run_jobs(
    model: DiffusionModel,
    specs: list[ErasureSpec],
    folder: Path,
    device: torch.device,
    report: Report,
    preview: bool | None,
    gate: Measuring | None = None,
) -> list[dict]:
    """This process's share of the erasures, a row each. One that fails is a row with an "error".

    gate: every LoRA is measured in this way, those of earlier runs too; its row has the "requirements".
    """
    rank, world = own_share()
    finish = None if gate else with_preview(model, device, report, preview)  # a gate draws the same
    maker = Maker(model, device, report, finish=finish)
    names = stems([spec.concept for spec in specs])
    rows = []
    for number in range(rank, len(specs), world):
        spec, file = specs[number], f"{names[number]}.safetensors"
        guess = spec.taken_as(model.knowledge.styles)
        report(f"{number + 1}/{len(specs)} {spec.concept!r}" + (f": {guess}" if guess else ""))
        row = {"number": number, "concept": spec.concept, "method": spec.method, "lora": file}
        try:
            row |= _make(maker, spec, folder / file)
            if gate is not None:
                model.to(device)  # where nothing was trained, it is not there yet
                row |= _measure(model, folder / file, gate, report, draw=preview is not False)
            rows.append(row)
        except SageError as error:
            report(f"{spec.concept!r} failed: {error}")
            rows.append(row | {"error": str(error)})
    return rows


def _make(maker: Maker, spec: ErasureSpec, path: Path) -> dict:
    """What it took. Of an earlier run nothing; a file of another erasure is never overwritten."""
    recipe = spec.recipe_for(maker.model)
    if not path.exists():
        made = maker.make(recipe, path, resume=True)
        row: dict[str, Any] = {"passes": made.cost.passes, "seconds": round(made.seconds, 2)}
        if made.checked is not None and made.checked.seen:
            row["note"] = f"still found in {', '.join(made.checked.seen)}"
        return row
    if not is_of(read_lora(path), recipe, maker.model):
        raise SageError(
            f"{path} is there and is another erasure or of another model; move it away, or choose another"
            " folder."
        )
    return {"passes": 0, "seconds": 0.0, "note": "was there"}


def _measure(model: DiffusionModel, path: Path, gate: Measuring, report: Report, draw: bool) -> dict:
    """The claims of the gate, whether they hold, and what was measured. draw: before and after beside the
    LoRA.
    """
    from ..evaluate.file import measure_file
    from ..evaluate.report import picture

    evaluation = measure_file(model, path, gate, about_file(path, read_lora(path).rank), report)
    if draw:
        write_picture(picture(evaluation, columns=4), path.with_suffix(".png"))
    measured = evaluation.report
    return {key: measured[key] for key in ("before", "after", "drift", "requirements", "holds")}


def share_rows(rows: list[dict]) -> list[dict] | None:
    """The rows of all processes in the order of the jobs, on the first process; None on the others."""
    rank, world = own_share()
    if world == 1:
        return rows
    state = process_state()
    from accelerate.utils import gather_object

    everyone = sorted(gather_object(rows), key=lambda row: row["number"])
    state.destroy_process_group()
    return everyone if rank == 0 else None


def write_summary(rows: list[dict], folder: Path) -> None:
    """summary.json, summary.md, and, where pictures were drawn, all of them on one sheet, summary.png."""
    write_text(folder / "summary.json", json.dumps(rows, indent=1, ensure_ascii=False))
    write_text(folder / "summary.md", as_markdown(rows))
    drawn = []
    for row in rows:
        picture = (folder / row["lora"]).with_suffix(".png")
        if "error" not in row and picture.exists():
            drawn.append(picture)
    if drawn:
        write_picture(_sheet(drawn[:MOST_SHOWN]), folder / "summary.png")


def _sheet(files: list[Path]):
    """The pictures in these files, ACROSS in a line, as one PIL image."""
    from PIL import Image

    parts = [Image.open(file).convert("RGB") for file in files]
    lines = [parts[i : i + ACROSS] for i in range(0, len(parts), ACROSS)]
    heights = [max(part.height for part in line) for line in lines]
    width = max(sum(part.width for part in line) for line in lines)
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    top = 0
    for line, height in zip(lines, heights):
        left = 0
        for part in line:
            sheet.paste(part, (left, top))
            left += part.width
        top += height
    return sheet


def as_markdown(rows: list[dict]) -> str:
    """A line an erasure; what failed says why."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = (
            row["concept"],
            row["method"],
            row["lora"],
            f"{row.get('passes', 0):,}",
            row.get("seconds", ""),
            _remark(row),
        )
        lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _remark(row: dict) -> str:
    """Why it failed, which claims do not hold, or what there is to note."""
    if "error" in row:
        return row["error"]
    failed = [result["sentence"] for result in row.get("requirements", []) if not result["holds"]]
    return "; ".join([*failed, *([row["note"]] if "note" in row else [])])
