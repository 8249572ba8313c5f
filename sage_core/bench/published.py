"""What the papers' own trainings cost, without running them whole.

A few of their steps are measured and counted up to all.
"""

from __future__ import annotations

import contextlib
import time

from ..cycle.run import erase
from ..diffusion.model import DiffusionModel
from ..errors import Cancelled
from ..methods.table import METHODS
from ..progress import Event
from ..spec import ErasureSpec


def counted_up(model: DiffusionModel, method: str, concept: str, steps: int, most: int | None = None) -> dict:
    """UNet passes and seconds of a method's published training, from `steps` of its steps after a first one,
    which warms up.

    How long a trajectory is, is drawn anew at every step: `passes` and `seconds` go by what was drawn, the
    expected ones by the mean of all draws. most: stop within a step that takes more UNet passes than this;
    then there are only the expected ones, from the time a pass takes on average.
    """
    marks: list[tuple[float, int]] = []  # seconds and passes before each UNet call
    ends: list[tuple[float, int]] = []  # and after each step

    def note_pass() -> None:
        marks.append((time.monotonic(), model.cost.passes))
        if most is not None and not ends and marks[-1][1] - marks[0][1] > most:
            raise Cancelled("measured")

    def note(event: Event) -> None:
        if event.phase == "erase":
            ends.append((time.monotonic(), model.cost.passes))
            if len(ends) > steps:
                raise Cancelled("measured")

    before, model.on_pass = model.on_pass, note_pass
    try:
        with contextlib.suppress(Cancelled):
            erase(model, ErasureSpec(concept, method=method, faithful=True), note)
    finally:
        model.on_pass = before
    return _counted(marks, ends, METHODS[method].published.steps, METHODS[method].passes(faithful=True))


def _counted(
    marks: list[tuple[float, int]], ends: list[tuple[float, int]], steps: int, expected: int
) -> dict:
    """Time from the first step's end to the last's.

    Without two ends, over all UNet calls but the first tenth.
    """
    timed = len(ends) - 1
    (start, before), (end, after) = (ends[0], ends[-1]) if timed > 0 else (marks[len(marks) // 10], marks[-1])
    seconds, passes = end - start, after - before
    result = {
        "steps": steps,
        "measured_steps": max(timed, 0),
        "measured_passes": passes,
        "expected_passes": expected,
        "expected_seconds": round(seconds * expected / passes, 1) if passes else None,
    }
    if timed > 0:
        result |= {"passes": round(passes * steps / timed), "seconds": round(seconds * steps / timed, 1)}
    return result
