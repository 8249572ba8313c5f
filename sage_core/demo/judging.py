"""The prompts that judge an erasure from a small model, with what its probe must see in each picture."""

from __future__ import annotations

import itertools

from ..diffusion.knowledge import Prompt
from ..evaluate.cells import CELLS, EVALUATION_SEED
from ..prompts.templates import fill
from .vocabulary import Concept, Vocabulary, canonical

# Ways to ask for a style that no eraser is given (the small models know them all).
PARAPHRASES = (
    "{a_thing} in {style} style",
    "{style} style {thing}",
    "a picture of {a_thing}, {style} style",
    "{thing}, {style}",
)


Row = tuple[str, str, str]  # prompt, what must be seen, the thing on which a style is shown


def demo_prompts(
    vocabulary: Vocabulary, concept: str, given: tuple[str, ...], images: int, seed: int = 0
) -> list[Prompt]:
    """`images` prompts for each cell: words and styles in turn, every picture from a seed of its own."""
    thing = vocabulary.find(concept)
    if thing is None:
        rows = _style_rows(vocabulary, concept.lower(), images)
    else:
        rows = _thing_rows(vocabulary, thing, {concept, *given}, images)
    return [
        Prompt(cell, text, expected, EVALUATION_SEED + 1000 * seed + i, shown_on)
        for cell in CELLS
        for i, (text, expected, shown_on) in enumerate(rows[cell])
    ]


def _thing_rows(
    vocabulary: Vocabulary, concept: Concept, given: set[str], images: int
) -> dict[str, list[Row]]:
    """By cell."""
    words = {
        "concept": [(concept.name, concept.name)],
        "synonyms": [
            (w, concept.name)
            for w in (concept.name, *concept.synonyms, *concept.descriptions)
            if w not in given and w != concept.name
        ],
        "near": [(c.name, c.name) for c in vocabulary.near(concept)],
        "far": [(c.name, c.name) for c in vocabulary.far(concept)],
    }
    rows: dict[str, list[Row]] = {cell: [] for cell in CELLS}
    for cell in CELLS:
        for i in range(images if words[cell] else 0):
            turn, place = divmod(i, len(words[cell]))
            word, expected = words[cell][place]
            style = vocabulary.styles[(turn + place) % len(vocabulary.styles)]  # every word meets every style
            rows[cell].append((canonical(style=style, name=word), expected, ""))
    return rows


def _style_rows(vocabulary: Vocabulary, style: str, images: int) -> dict[str, list[Row]]:
    """The style and paraphrases of it must not be seen; near: the other styles must be seen.

    far: things must be seen in every style, most of all in the erased one, from which only the style may go.
    """
    judged = [c.name for c in vocabulary.judged()]
    things = [judged[i * len(judged) // images] for i in range(images)]
    others = [s for s in vocabulary.styles if s != style]
    rows: dict[str, list[Row]] = {cell: [] for cell in CELLS}
    turns = zip(things, itertools.cycle(others), itertools.cycle(PARAPHRASES))
    for i, (thing, other, paraphrase) in enumerate(turns):
        rows["concept"].append((canonical(style=style, name=thing), style, thing))
        rows["synonyms"].append((fill(paraphrase, thing, style), style, thing))
        rows["near"].append((canonical(style=other, name=thing), other, thing))
        asked = style if i % 2 else other
        rows["far"].append((canonical(style=asked, name=thing), thing, thing))
    return rows


def expected(vocabulary: Vocabulary, concept: str) -> str:
    """The probe's name of the erased concept: a thing's canonical name, or a style."""
    thing = vocabulary.find(concept)
    return concept.lower() if thing is None else thing.name
