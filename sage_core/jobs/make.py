"""The one road from a recipe to its files; the command line, job files and the ComfyUI node all take it.

Room on the disk, one run for a name, the memory plan, training with a saved state, the LoRA, its picture.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from ..cycle.result import Erasure
from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..domain.check import Checked
from ..errors import SageError
from ..files import check_room, claimed, write_picture
from ..lora.file import LoraFile, rewrite_metadata
from ..lora.metadata import RESULT_KEY
from ..lora.surfaces import surface_layers
from ..memory.plan import Plan, erase_as_planned, fit
from ..methods.recipe import Recipe
from ..progress import Event

if TYPE_CHECKING:
    from ..evaluate.measure import Attacks, Evaluation

COPIES = 4  # of the adapter in a state: its weights, Adam's two moments, and a little for the bank


class Report(Protocol):
    """Whoever reports to the user: called with every event, and with sentences. It may raise to stop the
    run.
    """

    def __call__(self, event: Event | str, /) -> None: ...


@dataclass(frozen=True)
class Made:
    """A finished LoRA. One that was there already took no passes and no seconds.

    checked: what the last check found; None where nothing was checked.
    """

    path: Path
    recipe: Recipe
    losses: list[dict[str, float]]
    left: list[tuple[int, float]]
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    checked: Checked | None = None

    @classmethod
    def earlier(cls, path: Path, recipe: Recipe, file: LoraFile) -> Made:
        """Of a file that is there."""
        return cls(path, recipe, file.losses(), file.left(), checked=earlier_check(file))

    def to_json(self) -> dict:
        return {
            "spec": self.recipe.to_json(),
            "lora": about_file(self.path, self.recipe.rank),
            "cost": {
                "unet_forwards": self.cost.forwards,
                "unet_backwards": self.cost.backwards,
                "seconds": round(self.seconds, 2),
            },
            "check": None if self.checked is None else self.checked.to_json(),
        }


def earlier_check(file: LoraFile) -> Checked | None:
    """What the last check found when the file was made; None where it does not say, or not readably."""
    try:
        return Checked.from_json(file.check())
    except SageError:
        return None


def about_file(path: Path, rank: int, name: str | None = None) -> dict:
    """What reports say of a LoRA file. name: instead of its path."""
    return {"path": name or str(path), "bytes": path.stat().st_size, "rank": rank}


class Maker:
    """Makes LoRAs from one model, which is loaded and hashed once for all of them.

    Args:
        device: where to train.
        report: see Report.
        save_every: seconds between two saved states.
        finish: saves the erasure to the path and draws what should be seen of it; None: saves it.
    """

    def __init__(
        self,
        model: DiffusionModel,
        device: torch.device,
        report: Report,
        save_every: float = 10.0,
        finish: Callable[[Erasure, Path], None] | None = None,
    ):
        self.model, self.device, self.report = model, device, report
        self.save_every, self.finish = save_every, finish
        self._plans: dict[tuple, Plan | None] = {}

    def plan(self, recipe: Recipe) -> Plan | None:
        """Set the model up for this recipe. Recipes that take the same memory share a plan, reported once."""
        alike = (recipe.method, recipe.faithful, recipe.surface, recipe.rank, recipe.resolution)
        if alike not in self._plans:
            self._plans[alike] = fit(self.model, recipe, self.device)
            if self._plans[alike] is not None:
                self.report(str(self._plans[alike]))
        plan = self._plans[alike]
        if plan is not None:
            plan.set_up(self.model)
        return plan

    def make(self, recipe: Recipe, path: Path, resume: bool = False, state: Path | None = None) -> Made:
        """Erase and write `path`.

        state: file of the run's state (None: beside `path`). Raises SageError; the state is left then, if
        there was one.
        """
        beside = path.with_suffix(".resume")
        check_room(path, room_for(self.model, recipe))
        with claimed(path), contextlib.ExitStack() as stack:
            if state is not None:
                stack.enter_context(claimed(state))
            plan = self.plan(recipe)
            erasure = erase_as_planned(
                self.model, recipe, plan, self.report, self.report, state or beside, resume, self.save_every
            )
            try:
                if self.finish is None:
                    erasure.save(path, self.model)
                else:
                    self.finish(erasure, path)
            finally:
                erasure.adapter.remove()
        return Made(
            path,
            erasure.recipe,
            erasure.losses,
            erasure.left,
            erasure.cost,
            erasure.seconds,
            erasure.checked,
        )


def room_for(model: DiffusionModel, recipe: Recipe) -> int:
    """Bytes on the disk that a run takes: its state is the largest of what it writes."""
    layers = surface_layers(model, recipe.surface).values()
    numbers = sum(recipe.rank * (layer.in_features + layer.out_features) for layer in layers)
    return COPIES * 4 * numbers


def with_preview(
    model: DiffusionModel, device: torch.device, report: Report, wanted: bool | None
) -> Callable[[Erasure, Path], None] | None:
    """A `finish` that draws before and after beside the LoRA. wanted: None means where that is quick."""
    quick = model.knowledge.quick or device.type != "cpu"
    if model.vae is None or not (quick if wanted is None else wanted):
        return None

    def finish(erasure: Erasure, path: Path) -> None:
        save_measured(model, erasure, path, 4, None, report)

    return finish


def save_measured(
    model: DiffusionModel,
    erasure: Erasure,
    path: Path,
    images: int,
    attack: Attacks,
    report: Report,
) -> Evaluation:
    """Save the LoRA, then measure it, put the result into its metadata and a preview picture beside it."""
    erasure.save(path, model)  # first: whatever goes wrong below, the training is not lost
    from ..evaluate.measure import evaluate, measure_original
    from ..evaluate.report import picture

    spec, seed = erasure.spec, erasure.recipe.seed % 1000
    lora = about_file(path, erasure.recipe.rank)
    with erasure.adapter.off():
        base = measure_original(model, spec, images, seed, attack, report)
    evaluation = evaluate(
        model, base, spec, erasure.cost, erasure.seconds, lora, images, seed, attack, report
    )
    result = {key: evaluation.report[key] for key in ("before", "after", "drift")}
    rewrite_metadata(path, {RESULT_KEY: json.dumps(result)})
    write_picture(picture(evaluation, columns=4), path.with_suffix(".png"))
    return evaluation
