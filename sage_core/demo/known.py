"""What is known about the bundled model, as the core takes it."""

from __future__ import annotations

from ..demo import PROBE, vocabulary
from ..diffusion.knowledge import Knowledge
from .probe import Judge


def _words() -> frozenset[str]:
    return frozenset(word for c in vocabulary.concepts() for word in (c.name, *c.synonyms))


def _synonyms(word: str) -> tuple[str, ...]:
    """The other words for a concept; empty for a style."""
    concept = vocabulary.find(word)
    return () if concept is None else tuple(w for w in (concept.name, *concept.synonyms) if w != word.lower())


KNOWN = Knowledge(
    title="the bundled model",
    concepts=tuple(vocabulary.names()),
    drawable=_words(),
    words=tuple(c.name for c in vocabulary.retained()),
    styles=vocabulary.STYLES,
    synonyms=_synonyms,
    pixels=64,
    quick=True,
    judge=lambda: Judge.load(PROBE),
)
