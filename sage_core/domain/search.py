"""The domain of a concept: which words mean it in this model, and which are close to it and stay.

A word means the concept when its pull points the concept's way (pull.py). In the small models the words that
do lie far above all others; where that gap lies is found for every concept, and how clear it is is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from ..diffusion.model import DiffusionModel
from ..prompts.templates import SHOWN_ON, plain_templates, put
from ..prompts.words import other_styles
from ..prompts.writer import Writer
from .candidates import shortlist
from .found import Domain, Word
from .pull import Stops, cosines, walk

CANDIDATES = 36  # words whose pull is measured
CONFIRMED = 12  # of them, the best, at more stops
TRAJECTORIES = 2
SOLVER_STEPS, KEPT_STOPS = 6, (1, 2)
GUIDANCE = 3.0
CLOSE = 12  # words of the neighbourhood that are listed
NOISE = 0.05  # two prompts of one meaning are taken to be at least this far apart
PASSES = (
    2 * TRAJECTORIES * (1 + max(KEPT_STOPS))  # guided trajectories as far as the last kept stop
    + CANDIDATES
    + CONFIRMED * (TRAJECTORIES * len(KEPT_STOPS) - 1)
    + 2  # the concept in other templates
)  # at most
SEED = 30_000  # of the trajectories, away from the seeds that training draws


@torch.no_grad()
def search(
    model: DiffusionModel,
    names: list[str],
    kind: str,
    exclude: tuple[str, ...] = (),
    retain: tuple[str, ...] = (),
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Domain:
    """Find the words that mean the concept `names[0]`, whose other names are known.

    Call it with every adapter off.

    exclude: words that are in neither list; retain: words that are never taken for the concept.
    """
    before = model.cost.passes
    writer = Writer(names=names, retained=[], kind=kind, other_styles=other_styles(model, names))
    scenes: list[str | None] = list(SHOWN_ON[:TRAJECTORIES]) if writer.style else [None] * TRAJECTORIES
    seeds = [SEED + i for i in range(TRAJECTORIES)]
    stops = walk(model, writer, names[0], scenes, seeds, SOLVER_STEPS, KEPT_STOPS, GUIDANCE)
    words = [w for w in shortlist(model, names, CANDIDATES + len(exclude)) if w not in exclude][:CANDIDATES]
    on_step(1, 3)
    middle = len(stops) // 2
    first = _ranked(words, cosines(model, writer, words, stops.some([middle])))
    on_step(2, 3)
    best = [w.text for w in first[:CONFIRMED]]
    others = cosines(model, writer, best, stops.some([i for i in range(len(stops)) if i != middle]))
    known = torch.tensor([[w.pull] for w in first[:CONFIRMED]])
    ranked = _ranked(best, torch.cat([others, known], dim=1))
    threshold, clearness = boundary([w.pull for w in ranked], _noise(model, writer, kind, stops))
    on_step(3, 3)
    unlike = median(w.pull for w in first)
    kept_below = (unlike + threshold) / 2
    means = tuple(w for w in ranked if w.pull > threshold and w.text not in retain)
    rest = [w for w in (*ranked, *first[CONFIRMED:]) if w.pull <= threshold]
    return Domain(
        means,
        tuple(w for w in rest if w.pull > kept_below and w.text not in retain),
        tuple(w for w in rest if w.pull <= kept_below)[:CLOSE],
        threshold,
        clearness,
        model.cost.passes - before,
    )


def _ranked(words: list[str], pulls: torch.Tensor) -> list[Word]:
    """The words by the mean of their cosines [words, stops], strongest first."""
    values = pulls.mean(1).tolist()
    return sorted((Word(w, round(v, 4)) for w, v in zip(words, values)), key=lambda w: -w.pull)


def _noise(model: DiffusionModel, writer: Writer, kind: str, stops: Stops) -> float:
    """How far apart two prompts of one meaning lie: 1 - the lowest cosine of the concept in other templates.

    A style is only asked for as it is: its templates show different things.
    """
    if writer.style:
        return NOISE
    name = writer.names[0]
    prompts = [put(t, name) for t in plain_templates(name, kind)[1:3]]
    plain = Writer(names=prompts, retained=[], kind=kind)
    return max(NOISE, 1 - cosines(model, plain, prompts, stops.some([0])).min().item())


def boundary(pulls: list[float], noise: float) -> tuple[float, float]:
    """Where the words that mean the concept end: (the middle of the gap, how clear it is, 0 to 1).

    pulls: in falling order; the concept itself, 1, stands above them. Of all steps down from one value to the
    next, that one is taken which is the largest share of the way from 1 to its foot:

        max over i of (v_i - v_i+1) / (1 - v_i+1 + noise)

    The noise keeps small steps near 1 from counting. A clear gap takes up most of the way from 1 to the
    last value.
    """
    if not pulls:
        return 1.0, 0.0
    values = [1.0, *pulls]
    steps = list(zip(values, values[1:]))
    above, below = max(steps, key=lambda step: (step[0] - step[1]) / (1 - step[1] + noise))
    clearness = (above - below) / max(1e-6, 1 - values[-1])
    return round((above + below) / 2, 4), round(max(0.0, min(1.0, clearness)), 4)
