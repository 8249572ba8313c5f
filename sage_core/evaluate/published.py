"""What the papers' own trainings cost, without running them whole: a few of their steps, counted up to all."""

from __future__ import annotations

import contextlib
import time

from ..cycle import Event, erase
from ..diffusion.model import DiffusionModel
from ..errors import Cancelled
from ..methods import METHODS
from ..spec import ErasureSpec


def counted_up(model: DiffusionModel, method: str, concept: str, steps: int) -> dict:
    """UNet passes and seconds of a method's published training, from `steps` of its steps after a first one, which warms up."""
    marks: list[tuple[float, int]] = []  # seconds and passes after each step

    def note(event: Event) -> None:
        if event.phase == "erase":
            marks.append((time.monotonic(), model.cost.passes))
            if len(marks) > steps:
                raise Cancelled("measured")

    with contextlib.suppress(Cancelled):
        erase(model, ErasureSpec(concept, method=method, faithful=True), note)
    (start, before), (end, after) = marks[0], marks[-1]
    whole, measured = METHODS[method].published.steps, len(marks) - 1
    return {"passes": round((after - before) * whole / measured), "seconds": round((end - start) * whole / measured, 1), "measured_steps": measured,
            "steps": whole}
