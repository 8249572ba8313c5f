"""Ripple: how much is kept of other words, over their distance from the erased concept.

The distance of a word is 1 - cos to the nearest name of the concept, in what the UNet reads of them
(prompts.words.likeness_to). Words near a concept are harmed most (EraseBench, Amara et al., arXiv
2501.09833), and a mean over near and far hides where the harm ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...diffusion.knowledge import Prompt
from ...diffusion.model import DiffusionModel
from ...prompts.kinds import THING, guess
from ...prompts.templates import picture_of
from ...prompts.words import candidates, likeness_to, telling_words
from ...spec import ErasureSpec
from ..measure import Verdicts, wilson

BINS = 5


@dataclass(frozen=True)
class Point:
    """One picture in which the word was seen before. kept: it is seen after too."""

    distance: float
    kept: bool
    word: str = ""


def in_bins(points: Sequence[Point], count: int = BINS) -> list[dict]:
    """The share kept in at most `count` bins of about equally many pictures, from the nearest to the
    farthest.

    Pictures at one distance stay together. A bin: distance (the mean), from, to, kept, interval (Wilson's,
    95 %), prompts (its pictures) and words.
    """
    points = sorted(points, key=lambda point: point.distance)
    cuts = [0]
    for number in range(1, count + 1):
        cut = number * len(points) // count
        while 0 < cut < len(points) and points[cut].distance == points[cut - 1].distance:
            cut += 1
        cuts.append(max(cut, cuts[-1]))
    bins = [points[start:end] for start, end in zip(cuts, cuts[1:])]
    return [_about(part) for part in bins if part]


def _about(part: list[Point]) -> dict:
    kept = sum(point.kept for point in part)
    low, high = wilson(kept, len(part))
    return {
        "distance": round(sum(point.distance for point in part) / len(part), 4),
        "from": round(part[0].distance, 4),
        "to": round(part[-1].distance, 4),
        "kept": round(kept / len(part), 4),
        "interval": [round(low, 4), round(high, 4)],
        "prompts": len(part),
        "words": list(dict.fromkeys(point.word for point in part if point.word)),
    }


def points_of(
    prompts: Sequence[Prompt], before: Verdicts, after: Verdicts, distances: dict[str, float]
) -> list[Point]:
    """Of the pictures in which the expected word was seen before. distances: of every expected word."""
    points = []
    for prompt, seen, still in zip(prompts, before, after):
        if seen and still is not None:
            points.append(Point(distances[prompt.expected], bool(still), prompt.expected))
    return points


def distances_of(model: DiffusionModel, names: list[str], words: Sequence[str]) -> dict[str, float]:
    """Of each word, from the nearest of the concept's names. Call it with every adapter off."""
    different = list(dict.fromkeys(words))
    if not different:
        return {}
    return {word: 1 - like for word, like in zip(different, likeness_to(model, names, different))}


def ripple_prompts(model: DiffusionModel, spec: ErasureSpec, count: int, seed: int) -> list[Prompt]:
    """Pictures of `count` things that are not the concept, evenly over the distance from it; the nearest and
    the farthest are among them. Call it with every adapter off.

    Things that the model is known to draw, where that is known; else of the built-in list.
    """
    names = spec.recipe(model.knowledge.styles).names
    taken = telling_words([*names, *(word.text for word in spec.domain.between)] if spec.domain else names)
    known = model.knowledge.concepts or candidates(model)
    words = [w for w in known if not taken & set(w.lower().split()) and _is_thing(model, w)]
    away = distances_of(model, names, words)
    chosen = evenly(away, count)
    texts = [picture_of(word, THING) for word in chosen]
    return [Prompt("ripple", t, w, seed + i) for i, (t, w) in enumerate(zip(texts, chosen))]


def _is_thing(model: DiffusionModel, word: str) -> bool:
    return guess(word, model.knowledge.styles) == THING


def evenly(away: dict[str, float], count: int) -> list[str]:
    """`count` of the words, or all of fewer, evenly over their distances."""
    left = sorted(away, key=lambda word: away[word])
    if len(left) <= count:
        return left
    low, high = away[left[0]], away[left[-1]]
    chosen = []
    for i in range(count):
        wanted = low + (high - low) * i / max(1, count - 1)
        best = min(left, key=lambda word: abs(away[word] - wanted))
        left.remove(best)
        chosen.append(best)
    return sorted(chosen, key=lambda word: away[word])
