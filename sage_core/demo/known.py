"""What is known about the bundled model and about models that carry a probe, as the core takes it.

A vocabulary judges an erasure and does nothing else: the eraser retains the words that it would retain for a
stranger's checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from ..demo import PROBE
from ..diffusion.knowledge import Knowledge
from .probe import Judge
from .vocabulary import BUNDLED, Vocabulary

PROBE_FOLDER = "probe"  # in a model's folder: concepts.txt, styles.txt, probe.safetensors


def _words() -> frozenset[str]:
    return frozenset(word for c in BUNDLED.concepts for word in (c.name, *c.synonyms))


def _synonyms(word: str) -> tuple[str, ...]:
    """The other words for a concept; empty for a style."""
    concept = BUNDLED.find(word)
    return () if concept is None else tuple(w for w in (concept.name, *concept.synonyms) if w != word.lower())


KNOWN = Knowledge(
    title="the bundled model",
    concepts=tuple(BUNDLED.names),
    drawable=_words(),
    styles=BUNDLED.styles,
    synonyms=_synonyms,
    pixels=64,
    quick=True,
    judge=lambda: Judge.load(PROBE, BUNDLED),
)


def carried(source: Path) -> Knowledge | None:
    """What a model's folder says of the model with a probe of its own; None where it has none."""
    folder = source / PROBE_FOLDER
    if not (folder / "probe.safetensors").is_file():
        return None
    styles = (folder / "styles.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = Vocabulary.read(folder / "concepts.txt", styles)
    return Knowledge(
        title=f"the model {source.name}",
        pixels=64,
        quick=True,
        judge=lambda: Judge.load(folder / "probe.safetensors", vocabulary),
    )
