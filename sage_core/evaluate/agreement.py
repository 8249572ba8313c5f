"""Further judges of the same pictures, and how far they agree with the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..diffusion.knowledge import Judge
from ..spec import ErasureSpec
from .kept import NOTHING_KEPT, Kept, judged
from .measure import Baseline, Evaluation, Verdicts, about_judge, by_cell, intervals, judge_original, shares

Pair = tuple[bool, bool]  # the verdicts of two judges on one picture


def second_opinion(
    judge: Judge, base: Baseline, evaluation: Evaluation, spec: ErasureSpec, kept: Kept = NOTHING_KEPT
) -> dict:
    """What a further judge says of the first one's pictures, for the report.

    It has the first one's keys: name, cannot, hits, false_alarms, other_pictures, before, after, interval.
    agreement: the share of a cell's pictures, before and after together, of which both say the same. kappa:
    of all pictures.
    """
    first = base.judge.expected(spec.concept) if base.judge else spec.concept
    own = judge.expected(spec.concept)
    prompts = [dataclasses.replace(p, expected=own) if p.expected == first else p for p in base.prompts]
    copy = Baseline(judge, prompts, base.pictures)
    judge_original(copy, spec, kept)
    seen = judged(judge, evaluation.after, [p.expected for p in prompts], prompts, kept)
    report = about_judge(copy) or {}
    report |= {
        "before": shares(prompts, copy.seen),
        "after": shares(prompts, seen),
        "interval": intervals(prompts, seen),
    }
    pairs = _pairs(evaluation.seen or [], copy.seen or [], seen)
    twice = [*prompts, *prompts]
    same = [None if pair is None else pair[0] == pair[1] for pair in pairs]
    cells = by_cell(twice, same)
    report["agreement"] = {c: round(sum(r) / len(r), 4) if r else None for c, r in cells.items()}
    report["kappa"] = kappa([pair for pair in pairs if pair is not None])
    return report


def _pairs(
    first: Sequence[tuple[bool | None, bool | None]], before: Verdicts, after: Verdicts
) -> list[Pair | None]:
    """Both judges' verdicts, on all pictures before and then on all after; None where one has none."""
    both = [*zip((b for b, _ in first), before), *zip((a for _, a in first), after)]
    return [None if x is None or y is None else (x, y) for x, y in both]


def kappa(pairs: Sequence[Pair]) -> float | None:
    """Cohen's kappa (1960): k = (p_o - p_e) / (1 - p_e).

    p_o: the share of pictures on which both say the same. p_e: the share on which they would by chance, given
    how often each says yes. None where p_e is 1.
    """
    if not pairs:
        return None
    count = len(pairs)
    agree = sum(x == y for x, y in pairs) / count
    yes_first, yes_second = sum(x for x, _ in pairs) / count, sum(y for _, y in pairs) / count
    chance = yes_first * yes_second + (1 - yes_first) * (1 - yes_second)
    return None if chance == 1 else round((agree - chance) / (1 - chance), 4)
