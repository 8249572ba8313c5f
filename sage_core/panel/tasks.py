"""What the worker does: each task takes the one road of jobs/ and reports to the page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import Cancelled
from ..files import output_path, slug, write_picture, write_text
from ..progress import Event, name_of
from ..spec import ErasureSpec

if TYPE_CHECKING:
    from ..cycle.result import Erasure
    from ..diffusion.model import DiffusionModel
    from ..evaluate.measure import Evaluation
    from ..lora.file import LoraFile
    from ..methods.recipe import Recipe

SAVE_EVERY = 3.0  # seconds between two saved states
OFTEN = 0.2  # seconds between two events of the same phase
IMAGES, ATTACKED = 4, 8  # pictures a cell
SIDE = 128  # of a picture on the page

Tell = Callable[[dict[str, Any]], None]


def do(task: dict[str, Any], shelf: dict, tell: Tell, cancelled: Callable[[], bool]) -> dict[str, Any]:
    """The task's result. Raises SageError and Cancelled."""
    tell({"text": "reading the model"})
    model, device = _model(task["source"], shelf)
    reporter = Reporter(model, Path(task["folder"]), tell, cancelled)
    return {"erase": erase, "join": join, "words": words, "attack": attack}[task["kind"]](
        task, model, device, reporter
    )


def _model(source: str, shelf: dict) -> tuple[DiffusionModel, torch.device]:
    """The model, which stays in memory until another is asked for or its file changes."""
    from ..memory.plan import frozen_dtype
    from ..models import BUNDLED, load_model

    mps = getattr(torch.backends, "mps", None)
    has_mps = mps is not None and mps.is_available()
    device = torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    path = Path(source)
    changed = 0 if source in BUNDLED else path.stat().st_mtime_ns if path.exists() else -1
    if shelf.get("key") != (source, changed):
        shelf.clear()  # first: two models may not fit
        shelf["model"] = load_model(source, "cpu", frozen_dtype(device))
        shelf["key"] = source, changed
    return shelf["model"], device


class Reporter:
    """Tells the page of events and sentences, draws the looks, and stops the run when it was cancelled."""

    def __init__(self, model: DiffusionModel, folder: Path, tell: Tell, cancelled: Callable[[], bool]):
        self.model, self.folder, self.tell, self.cancelled = model, folder, tell, cancelled
        self.last, self.pictures = ("", 0.0), 0

    def __call__(self, event: Event | str) -> None:
        if self.cancelled():
            raise Cancelled
        if isinstance(event, str):
            self.tell({"text": event})
            return
        now = time.monotonic()
        ends = event.step >= event.total or event.domain or event.checked or event.latents is not None
        if not ends and self.last[0] == event.phase and now - self.last[1] < OFTEN:
            return
        self.last = event.phase, now
        about = {"phase": event.phase, "text": name_of(event.phase), "step": event.step, "total": event.total}
        if event.eta is not None:
            about["eta"] = round(event.eta, 1)
        if event.left is not None:
            about["left"] = round(event.left, 4)
        if event.checked is not None:
            about["text"] = event.checked.sentence(event.concept)
        if event.domain is not None:
            about["domain"] = event.domain.to_json()
        if event.latents is not None and self.model.vae is not None:
            about["picture"] = self.draw(event.latents)
        self.tell(about)

    @torch.no_grad()
    def draw(self, latents: torch.Tensor) -> str:
        """A look's pictures in a file of the run; its name."""
        from PIL import Image

        from ..evaluate.pictures import to_pil

        tiles = [to_pil(image, SIDE) for image in self.model.decode(latents.to(self.model.device))]
        sheet = Image.new("RGB", (SIDE * len(tiles), SIDE))
        for i, tile in enumerate(tiles):
            sheet.paste(tile, (SIDE * i, 0))
        name = f"live-{self.pictures}.png"
        write_picture(sheet, self.folder / name)
        self.pictures += 1
        return name


# ---- tasks ----


def erase(task: dict, model: DiffusionModel, device: torch.device, report: Reporter) -> dict[str, Any]:
    """The LoRA of one concept: trained, or found as a file of this very erasure."""
    from ..jobs.make import Made, Maker
    from ..jobs.names import place

    spec = ErasureSpec.from_json(task["spec"])
    recipe = spec.recipe_for(model)
    model.knowledge.check([recipe.concept, *recipe.synonyms])
    folder, loras = Path(task["folder"]), Path(task["loras"])
    first = output_path(loras, f"erased-{slug(spec.concept)}.safetensors")
    path, file = place(first, recipe, model)
    quick = model.knowledge.quick or device.type != "cpu"
    if file is not None:
        report(f"{path.name} is this very erasure: nothing is trained")
        made = Made.earlier(path, recipe, file)
        model.to(device)
        report_of = _measured(model, path, file, folder, report) if quick and model.vae is not None else None
    else:
        finish, kept = _finish(model, folder, report, quick)
        made = Maker(model, device, report, SAVE_EVERY, finish).make(
            recipe, path, resume=True, state=folder / "state.resume"
        )
        report_of = kept[0] if kept else None
    return {
        "lora": path.relative_to(loras).as_posix(),
        "found": file is not None,
        "check": None if made.checked is None else made.checked.to_json(),
        "sentence": "" if made.checked is None else made.checked.sentence(spec.concept),
        "guess": spec.taken_as(model.knowledge.styles),
        "left": made.left,
        "passes": made.cost.passes,
        "seconds": round(made.seconds, 1),
        "recipe": made.recipe.to_json(),
        "report": report_of,
    }


def _finish(model: DiffusionModel, folder: Path, report: Reporter, quick: bool):
    """A `finish` of jobs.make that measures, if that is quick; and where it puts the short report."""
    kept: list[dict[str, Any]] = []

    def finish(erasure: Erasure, path: Path) -> None:
        from ..jobs.make import save_measured

        if quick and model.vae is not None:
            kept.append(_pictured(save_measured(model, erasure, path, IMAGES, None, report), folder))
        else:
            erasure.save(path, model)

    return finish, kept


def _measured(
    model: DiffusionModel, path: Path, file: LoraFile, folder: Path, report: Reporter
) -> dict[str, Any]:
    """The same for a file that is there."""
    from ..evaluate.file import Measuring, measure_file
    from ..evaluate.judges.choose import own_or_model
    from ..jobs.make import about_file

    how = Measuring(IMAGES, judges=(own_or_model,))
    return _pictured(measure_file(model, path, how, about_file(path, file.rank), report), folder)


def _pictured(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Write the report and two pictures that lie on each other; the numbers for the page."""
    from ..evaluate.report import write_report

    write_report(evaluation, folder)
    shown = []
    for cell in dict.fromkeys(p.cell for p in evaluation.prompts):
        shown += [i for i, p in enumerate(evaluation.prompts) if p.cell == cell][:IMAGES]
    for name, pictures in (("before", evaluation.before), ("after", evaluation.after)):
        write_picture(_sheet(evaluation, pictures, shown), folder / f"{name}.png")
    names = ("before", "after", "drift", "judge", "images")
    return {name: evaluation.report[name] for name in names}


def _sheet(evaluation: Evaluation, pictures: torch.Tensor, shown: list[int]):
    """The same prompts in the same places, before and after."""
    from ..evaluate.pictures import caption, sheet

    labels = [caption(evaluation.prompts[i].text)[:24] for i in shown]
    return sheet(pictures[shown], labels, columns=IMAGES, side=SIDE)


def join(task: dict, model: DiffusionModel, device: torch.device, report: Reporter) -> dict[str, Any]:
    """Several LoRAs as one, fitted to each other."""
    from ..jobs.join import join_for
    from ..jobs.names import place_joined
    from ..lora.file import read_lora

    loras = Path(task["loras"])
    files = [output_path(loras, name) for name in task["files"]]
    parts = [read_lora(path) for path in files]
    path, found = place_joined(output_path(loras, "erased-together.safetensors"), parts, model)
    if found is None:
        join_for(model.to(device), files, path, on_event=report)
    concepts = [spec["concept"] for part in parts for spec in part.specs()]
    return {"lora": path.relative_to(loras).as_posix(), "found": found is not None, "concepts": concepts}


def words(task: dict, model: DiffusionModel, device: torch.device, report: Reporter) -> dict[str, Any]:
    """The domain of a concept; nothing is trained."""
    from ..domain.search import search

    spec = ErasureSpec.from_json(task["spec"])
    recipe: Recipe = spec.recipe(model.knowledge.styles)
    model.knowledge.check(recipe.given)
    report(f"searching other words for {spec.concept!r}")
    steps = lambda done, total: report(Event("domain", done, total))  # noqa: E731
    domain = search(model.to(device), recipe.given, recipe.kind, recipe.exclude, recipe.kept, steps)
    return {
        "domain": domain.to_json(),
        "clear": domain.clear,
        "kind": recipe.kind,
        "guess": spec.taken_as(model.knowledge.styles),
    }


def attack(task: dict, model: DiffusionModel, device: torch.device, report: Reporter) -> dict[str, Any]:
    """The quick attack on a LoRA file, with its control on the untouched model."""
    from ..evaluate.attacks.table import QUICK, named
    from ..evaluate.file import Measuring, measure_file
    from ..evaluate.pictures import sheet
    from ..evaluate.report import write_report
    from ..jobs.make import about_file
    from ..lora.file import read_lora

    path, folder = Path(task["file"]), Path(task["folder"])
    how = Measuring(ATTACKED, attacks=named([QUICK]), asked=True)
    evaluation = measure_file(
        model.to(device), path, how, about_file(path, read_lora(path).rank), lambda text: report(str(text))
    )
    write_report(evaluation, folder)
    if evaluation.attacked is not None:
        count = min(ATTACKED, len(evaluation.attacked))
        write_picture(
            sheet(evaluation.attacked[:count], [""] * count, columns=4, side=SIDE), folder / "attack.png"
        )
    names = ("before", "after", "judge", "attacks", "attacked_by")
    result = {name: evaluation.report.get(name) for name in names}
    write_text(folder / "attack.json", json.dumps(result, indent=1))
    return {"report": result, "seconds": 0.0}
