"""The prompts that judge an erasure, in four cells: the concept, words for it that were not given, its neighbours, the rest."""

from __future__ import annotations

from dataclasses import dataclass

from ..diffusion.model import DiffusionModel
from ..spec import ErasureSpec

CELLS = ("concept", "synonyms", "near", "far")
EVALUATION_SEED = 50_000  # away from the seeds that training draws


@dataclass(frozen=True)
class Prompt:
    """One picture to draw: what is asked for, in which words, from which seed. `expected`: the concept or the style that must be seen."""

    cell: str
    text: str
    expected: str
    seed: int


def plain_prompts(model: DiffusionModel, spec: ErasureSpec, images: int, seed: int = 0) -> list[Prompt]:
    """The same for any other model, from what the spec says and the built-in words; there is no probe to judge them."""
    from ..retention.words import candidates

    words = candidates(model)
    groups = {"concept": [spec.concept], "synonyms": list(spec.synonyms), "near": list(spec.retain), "far": words[:: max(1, len(words) // 12)]}
    return [
        Prompt(cell, f"a picture of a {group[i % len(group)]}", group[i % len(group)], EVALUATION_SEED + 1000 * seed + i)
        for cell, group in groups.items() for i in range(images if group else 0)
    ]
