"""Captions: names and synonyms in plain templates, with and without a style; some name only the group; some
are empty.
"""

from __future__ import annotations

import random

from sage_core.demo.vocabulary import Concept, Vocabulary

CANONICAL = "a {style} drawing of a {name}"  # the bundled model was trained on captions with "a" everywhere

STYLED = (
    CANONICAL,
    "a {style} {name}",
    "{name}, {style}",
    "a {name} in {style} style",
    "{style} {name}",
    "a picture of a {name}, {style} style",
    "a {style} picture of a {name}",
    "{style} style {name}",
)
PLAIN = (
    "{name}",
    "a {name}",
    "a picture of a {name}",
    "a drawing of a {name}",
    "an image of a {name}",
    "the {name}",
    "a photo of a {name}",
)
ADJECTIVES = ("cute", "small", "big", "lovely", "simple", "beautiful", "single", "nice", "funny", "large")


def word(concept: Concept, rng: random.Random) -> str:
    """The name or a synonym, now and then with an adjective that changes nothing."""
    text = concept.name if rng.random() < 0.5 else rng.choice(concept.synonyms)
    return f"{rng.choice(ADJECTIVES)} {text}" if rng.random() < 0.1 else text


def caption(concept: Concept, style: str, rng: random.Random) -> str:
    """A caption for a picture of `concept` in `style`: 10 % empty, 4 % group only, 18 % without style.

    Where there are descriptions, 12 % are one ("a pet that barks, ink").
    """
    x = rng.random()
    if concept.descriptions and x > 0.88:
        return f"{rng.choice(concept.descriptions)}, {style}"
    if x < 0.10:
        return ""
    name = concept.group if x < 0.14 else word(concept, rng)
    template = rng.choice(PLAIN) if x < 0.32 else rng.choice(STYLED)
    return template.format(name=name, style=style)


def all_words(vocabulary: Vocabulary) -> list[str]:
    """Every word that a caption can hold, for the tokenizer."""
    texts = [
        *STYLED,
        *PLAIN,
        *ADJECTIVES,
        *vocabulary.styles,
        "photo of an image style the drawing artwork depicting showing painting",
    ]
    for c in vocabulary.concepts:
        texts += [c.name, c.group, *c.synonyms, *c.descriptions]
    return sorted(
        {w for t in texts for w in t.replace("{name}", "").replace("{style}", "").replace(",", " ").split()}
    )
