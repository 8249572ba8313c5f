"""The prompts that judge an erasure, in four cells: the concept, words for it that were not given, its
neighbours, the rest.
"""

from __future__ import annotations

import itertools

from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel
from ..prompts.kinds import guess
from ..prompts.templates import picture_of
from ..spec import ErasureSpec

CELLS = ("concept", "synonyms", "near", "far")
EVALUATION_SEED = 50_000  # away from the seeds that training draws


def plain_prompts(model: DiffusionModel, spec: ErasureSpec, images: int, seed: int = 0) -> list[Prompt]:
    """The same for any other model, from what the spec says and the built-in words; there is no probe to
    judge them.
    """
    from ..prompts.words import candidates

    words, styles = candidates(model), model.knowledge.styles
    kinds = {word: spec.kind_of(styles) for word in (spec.concept, *spec.synonyms)}
    groups = {
        "concept": [spec.concept],
        "synonyms": list(spec.synonyms),
        "near": list(spec.retain),
        "far": words[:: max(1, len(words) // 12)],
    }
    prompts = []
    for cell, group in groups.items():
        for i, word in zip(range(images), itertools.cycle(group)):
            text = picture_of(word, kinds.get(word) or guess(word, styles))
            prompts.append(Prompt(cell, text, word, EVALUATION_SEED + 1000 * seed + i))
    return prompts
