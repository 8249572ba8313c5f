"""The prompts that judge an erasure, in four cells: the concept, words for it that were not given, its
neighbours, the rest.
"""

from __future__ import annotations

import itertools

from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel
from ..domain.found import Domain
from ..prompts.kinds import guess
from ..prompts.templates import SHOWN_ON, picture_of
from ..prompts.words import TOO_LIKE, candidates, likeness_to, telling_words
from ..spec import ErasureSpec

CELLS = ("concept", "synonyms", "near", "far")
NEIGHBOURS = 6  # words of the cell "near" at most
EVALUATION_SEED = 50_000  # away from the seeds that training draws


def plain_prompts(model: DiffusionModel, spec: ErasureSpec, images: int, seed: int = 0) -> list[Prompt]:
    """The same for any other model, from what the spec says and the built-in words. Call it with every
    adapter off.
    """
    words, styles = candidates(model), model.knowledge.styles
    names = spec.recipe(styles).names
    kinds = {word: spec.kind_of(styles) for word in names}
    near = neighbours(model, spec)[:NEIGHBOURS]
    groups = {
        "concept": [spec.concept],
        "synonyms": names[1:],
        "near": near,
        "far": [w for w in words[:: max(1, len(words) // 12)] if w not in (*names, *near)],
    }
    prompts = []
    for cell, group in groups.items():
        for i, word in zip(range(images), itertools.cycle(group)):
            thing = SHOWN_ON[i % len(SHOWN_ON)]
            text = picture_of(word, kinds.get(word) or guess(word, styles), thing)
            expected = spec.concept if word in names else word
            prompts.append(Prompt(cell, text, expected, EVALUATION_SEED + 1000 * seed + i, thing))
    return prompts


def neighbours(model: DiffusionModel, spec: ErasureSpec) -> list[str]:
    """Words near the concept: the user's own to retain, those that a search found, or else the most like of
    the built-in list. Call it with every adapter off.
    """
    domain, names = spec.domain or Domain(), spec.recipe(model.knowledge.styles).names
    left_out = telling_words([*names, *(w.text for w in domain.between)])
    words = [w for w in candidates(model) if not left_out & set(w.lower().split())]
    found = [w.text for w in domain.close if w.text in words]  # of the tokenizer's words many say nothing
    like = likeness_to(model, names, words)
    ranked = sorted(zip(like, words), key=lambda pair: -pair[0])
    return list(dict.fromkeys([*spec.retain, *found, *(w for value, w in ranked if value < TOO_LIKE)]))
