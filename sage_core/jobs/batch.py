"""Many erasures from one model: a job file in, a LoRA a concept and one summary out.

What is there already is not made again.

Under `accelerate launch` the processes share the concepts, a GPU each. Erasures do not need each other, so no
gradient travels and the LoRAs are the same as from one process.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..files import parse_json, slug, write_picture, write_text
from ..lora.file import read_lora
from ..memory.plan import fit
from ..progress import Progress
from ..spec import ErasureSpec, parse_concepts
from .make import make_lora, passes_of

MAX_JOBS = 10_000
ACROSS = 4  # pictures beside each other on the sheet
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
        try:
            specs.append(
                ErasureSpec.from_json(
                    settings
                    | (
                        {"concept": job}
                        if isinstance(job, str)
                        else dict(job)
                        if isinstance(job, dict)
                        else {}
                    )
                )
            )
        except SageError as error:
            raise SageError(f"{path.name}, erasure {number}: {error}") from error
    return specs


def stems(specs: list[ErasureSpec]) -> list[str]:
    """A file name for each, different even where two concepts are spelt alike."""
    seen, names = Counter(), []
    for spec in specs:
        name = slug(spec.concept)
        seen[name.lower()] += 1
        names.append(f"erased-{name}" if seen[name.lower()] == 1 else f"erased-{name}-{seen[name.lower()]}")
    return names


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
    device,
    progress: Progress,
    preview: bool | None,
) -> list[dict]:
    """This process's share of the erasures, a row each; one that fails is a row with an "error", and the
    others go on.
    """
    rank, world = own_share()
    rows, plans = [], {}
    for i, (spec, stem) in list(enumerate(zip(specs, stems(specs))))[rank::world]:
        path, row = (
            folder / f"{stem}.safetensors",
            {
                "number": i,
                "concept": spec.concept,
                "method": spec.method,
                "lora": f"{stem}.safetensors",
            },
        )
        taken = spec.taken_as(model.knowledge.styles)
        progress(f"{i + 1}/{len(specs)} {spec.concept!r}" + (f": {taken}" if taken else ""))
        spec = spec.resolved(model.knowledge.styles)
        try:
            rows.append(
                row | _made(path, spec, model)
                if path.exists()
                else row | _make(model, spec, path, device, progress, preview, plans)
            )
        except SageError as error:
            progress(f"{spec.concept!r} failed: {error}")
            rows.append(row | {"error": str(error)})
    return rows


def _make(
    model: DiffusionModel,
    spec: ErasureSpec,
    path: Path,
    device,
    progress: Progress,
    preview: bool | None,
    plans: dict,
) -> dict:
    """plans: those that were made already, by what they depend on."""
    whole = spec.resolved()
    alike = (whole.method, whole.faithful, whole.surface, whole.rank, whole.resolution)
    if alike not in plans:
        plans[alike] = fit(model, spec, device)
        if plans[alike] is not None:
            progress(str(plans[alike]))
    elif plans[alike] is not None:
        plans[alike].set_up(model)
    made = make_lora(model, spec, path, plans[alike], progress, resume=True, preview=preview)
    return {"passes": passes_of(made), "seconds": made["cost"]["seconds"]}


def _made(path: Path, spec: ErasureSpec, model: DiffusionModel) -> dict:
    """Of an earlier run; a file of another erasure is never overwritten."""
    if not read_lora(path).is_of(spec, model):
        raise SageError(
            f"{path} is there and is another erasure or of another model; move it away, or choose another"
            " folder."
        )
    return {"passes": 0, "seconds": 0.0, "note": "was there"}


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
    pictures = [
        p for row in rows if "error" not in row and (p := (folder / row["lora"]).with_suffix(".png")).exists()
    ]
    if pictures:
        from PIL import Image

        parts = [
            Image.open(p).convert("RGB") for p in pictures[:100]
        ]  # more than that nobody looks at in one picture
        rows = [parts[i : i + ACROSS] for i in range(0, len(parts), ACROSS)]
        sheet = Image.new(
            "RGB",
            (max(sum(p.width for p in row) for row in rows), sum(max(p.height for p in row) for row in rows)),
            "white",
        )
        top = 0
        for row in rows:
            left = 0
            for part in row:
                sheet.paste(part, (left, top))
                left += part.width
            top += max(part.height for part in row)
        write_picture(sheet, folder / "summary.png")


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
            row.get("error", row.get("note", "")),
        )
        lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"
