"""All that is measured of what was kept, in two parts: with the untouched model, and then with the erased."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ...diffusion.knowledge import Judge, Prompt
from ...diffusion.model import DiffusionModel
from ...spec import ErasureSpec
from ..cells import EVALUATION_SEED
from ..drawing import draw
from ..judges.clip import ClipJudge
from ..measure import Baseline, Evaluation, Verdicts, distances, staying_cells
from . import content, features, natural, ripple
from .bootstrap import mean_of
from .lpips import Lpips

SEEDS = {"ripple": 30_000, "content": 31_000, "again": 32_000}  # beyond the cells' seeds
STAYS = ("near", "far")


@dataclass(frozen=True)
class Keeping:
    """words: things of the ripple, a picture each. lpips: a backbone; None: LPIPS is not measured."""

    words: int = 32
    lpips: Lpips | None = None


@dataclass
class Keeper:
    """One measurement. `original` comes first, with every adapter off; then `erased`, with the LoRA on.

    judges: the first judges ripple and content; features come from all that have some, CLIP scores from the
    first that is CLIP.
    """

    model: DiffusionModel
    spec: ErasureSpec
    judges: Sequence[Judge]
    how: Keeping
    images: int
    seed: int
    absent: dict[str, str] = field(default_factory=dict)
    pairs: content.Pairs | None = None
    prompts: list[Prompt] = field(default_factory=list)  # the keeper's own: of ripple, then of content
    before: torch.Tensor | None = None
    seen: Verdicts = ()
    shown: list[bool] = field(default_factory=list)
    again: torch.Tensor | None = None
    away: dict[str, float] = field(default_factory=dict)

    def original(self, base: Baseline, on_event: Callable[[str], None]) -> None:
        """Draw and judge what only this measurement needs."""
        judge, first = self.judges[0], EVALUATION_SEED + 1000 * self.seed
        words = ripple.ripple_prompts(self.model, self.spec, self.how.words, first + SEEDS["ripple"])
        if isinstance(judge, content.NamesBoth):
            expected = judge.expected(self.spec.concept)
            self.pairs = content.pairs(self.model, self.spec, expected, self.images, first + SEEDS["content"])
        else:
            self.absent["content"] = f"{judge.name} does not name things and styles apart"
        self.prompts = [*words, *(self.pairs.prompts if self.pairs else ())]
        on_event(f"drawing {len(self.prompts)} more pictures with the original model, to see what is kept")
        self.before = draw(self.model, self.prompts)
        self.seen = _judged(judge, self.before, self.prompts)
        if self.pairs:
            self.shown = self.pairs.seen(judge, self.before[len(words) :])
        names = self.spec.recipe(self.model.knowledge.styles).names
        expected_words = [p.expected for p in (*base.prompts, *words) if p.cell in (*STAYS, "ripple")]
        self.away = ripple.distances_of(self.model, names, expected_words)
        self._draw_again(base, on_event, first)

    def _draw_again(self, base: Baseline, on_event: Callable[[str], None], first: int) -> None:
        """The pictures of near and far from other seeds, which FID and KID are compared with."""
        stay = [base.prompts[i] for i in _staying(base.prompts)]
        if not any(isinstance(judge, features.HasFeatures) for judge in self.judges):
            self.absent["features"] = "FID and KID need a judge with features: a model's own probe, or CLIP"
        elif len(stay) < features.FEWEST:
            self.absent["features"] = "FID and KID need at least two pictures"
        elif missing := features.missing():
            self.absent["features"] = missing
        else:
            on_event(f"drawing {len(stay)} pictures from other seeds, which FID and KID are compared with")
            seeds = range(first + SEEDS["again"], first + SEEDS["again"] + len(stay))
            self.again = draw(self.model, [dataclasses.replace(p, seed=s) for p, s in zip(stay, seeds)])

    def erased(self, evaluation: Evaluation, on_event: Callable[[str], None]) -> dict:
        """report["keeping"]; a part that could not be measured is in `absent`, with the reason."""
        assert self.before is not None
        on_event(f"drawing {len(self.prompts)} more pictures with the erased model, to see what is kept")
        after = draw(self.model, self.prompts, self.before)
        on_event("measuring what was kept: distances, features, naturalness")
        report = {
            "ripple": self._ripple(evaluation, after),
            "content": self._content(after),
            "drift": self._by_cell(evaluation, distances(evaluation.before, evaluation.after).tolist()),
            "clip": self._clip(evaluation),
            "lpips": self._lpips(evaluation),
            "features": self._features(evaluation),
            "natural": self._natural(evaluation),
        }
        return {name: part for name, part in report.items() if part} | {"absent": self.absent}

    def _ripple(self, evaluation: Evaluation, after: torch.Tensor) -> dict | None:
        judge = self.judges[0]
        count = sum(p.cell == "ripple" for p in self.prompts)
        still = _judged(judge, after[:count], self.prompts[:count])
        points = ripple.points_of(self.prompts[:count], self.seen[:count], still, self.away)
        index = _staying(evaluation.prompts)
        if evaluation.seen is not None:
            pairs = [evaluation.seen[i] for i in index]
            own = [evaluation.prompts[i] for i in index]
            points += ripple.points_of(own, [b for b, _ in pairs], [a for _, a in pairs], self.away)
        if not points:
            self.absent["ripple"] = f"{judge.name} saw none of the words before"
            return None
        bins = ripple.in_bins(points)
        drawn = count + len(index)
        return {"bins": bins, "least": min(b["kept"] for b in bins), "pictures": drawn, "seen": len(points)}

    def _content(self, after: torch.Tensor) -> dict | None:
        if not self.pairs:
            return None
        judge, start = self.judges[0], len(self.prompts) - len(self.pairs.prompts)
        gone = self.seen[start:], _judged(judge, after[start:], self.pairs.prompts)
        return content.about(self.pairs, self.shown, self.pairs.seen(judge, after[start:]), gone)

    def _by_cell(self, evaluation: Evaluation, values: list[float]) -> dict:
        """Means with bootstrap intervals over prompts, of the cells that may stay as they are."""
        cells = {}
        for cell in staying_cells(evaluation.prompts):
            part = [(v, p.text) for v, p in zip(values, evaluation.prompts) if p.cell == cell]
            if part:
                cells[cell] = mean_of([v for v, _ in part], [text for _, text in part])
        return cells

    def _clip(self, evaluation: Evaluation) -> dict | None:
        """CLIP score (Hessel et al., arXiv 2104.08718) as tables give it: 100 max(0, cos)."""
        judge = next((judge for judge in self.judges if isinstance(judge, ClipJudge)), None)
        if judge is None:
            self.absent["clip"] = "CLIP scores need CLIP as a judge"
            return None
        texts = [p.text for p in evaluation.prompts]
        before, after = (
            self._by_cell(evaluation, judge.scores(pictures, texts))
            for pictures in (evaluation.before, evaluation.after)
        )
        return {cell: {"before": before[cell], "after": after[cell]} for cell in before}

    def _lpips(self, evaluation: Evaluation) -> dict | None:
        if self.how.lpips is None:
            self.absent["lpips"] = "LPIPS needs the file of its backbone"
            return None
        values = self.how.lpips(evaluation.before, evaluation.after)
        return {"backbone": self.how.lpips.name, "cells": self._by_cell(evaluation, values)}

    def _features(self, evaluation: Evaluation) -> list[dict]:
        if self.again is None:
            return []
        index, rows = _staying(evaluation.prompts), []
        for judge in self.judges:
            if isinstance(judge, features.HasFeatures):
                before, after = evaluation.before[index], evaluation.after[index]
                rows.append(features.compared(judge, before, after, self.again))
        return rows

    def _natural(self, evaluation: Evaluation) -> dict | None:
        prompts, index = evaluation.prompts, _staying(evaluation.prompts)
        own = [i for i, p in enumerate(prompts) if p.cell == "concept"]
        if len(index) < natural.FEWEST or not own:
            self.absent["natural"] = (
                f"naturalness needs {natural.FEWEST} pictures of other things to compare with"
            )
            return None
        reference = natural.denoised(self.model, evaluation.before[index])
        texts = [prompts[i].text for i in own]
        rows = {
            "before": natural.denoised(self.model, evaluation.before[own]),
            "after": natural.denoised(self.model, evaluation.after[own]),
        }
        found: dict = {when: natural.about(reference, part, texts) for when, part in rows.items()}
        return found | {"reference": len(index)}


def _staying(prompts: Sequence[Prompt]) -> list[int]:
    """The numbers of the prompts of near and far."""
    return [i for i, p in enumerate(prompts) if p.cell in STAYS]


def _judged(judge: Judge, pictures: torch.Tensor, prompts: list[Prompt]) -> Verdicts:
    return judge.sees(pictures, [p.expected for p in prompts], prompts) if prompts else []
