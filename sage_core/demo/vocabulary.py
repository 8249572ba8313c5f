"""What the bundled model can draw: concepts, their synonyms, groups, styles, and which of them may judge an
erasure.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from ..prompts.templates import plainest_in_style

STYLES = ("cartoon", "glossy", "ink", "pixel art")
# Never shown in training: does the model put a known thing into a known style that it never saw it in?
HELD_OUT_PAIRS = {
    ("fox", "pixel art"),
    ("apple", "ink"),
    ("castle", "glossy"),
    ("guitar", "cartoon"),
    ("umbrella", "ink"),
    ("penguin", "glossy"),
}


@dataclass(frozen=True)
class Concept:
    """One thing: its canonical name, the art's slug, its group and the other words for it."""

    name: str
    icon: str
    group: str
    synonyms: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def concepts() -> tuple[Concept, ...]:
    """All concepts in file order; inside a group, order means likeness."""
    rows = []
    for line in (Path(__file__).parent / "concepts.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, icon, group, synonyms = (cell.strip() for cell in line.split("|"))
            rows.append(Concept(name, icon, group, tuple(s.strip() for s in synonyms.split(","))))
    return tuple(rows)


def names() -> list[str]:
    return [c.name for c in concepts()]


def canonical(style: str, name: str) -> str:
    """The prompt by which a thing in a style is judged: "an ink drawing of an owl"."""
    return plainest_in_style(name, style)


def find(text: str) -> Concept | None:
    """The concept that a name or synonym stands for, or None."""
    wanted = " ".join(text.lower().split())
    return next((c for c in concepts() if wanted == c.name or wanted in c.synonyms), None)


def retained() -> list[Concept]:
    """The half of the vocabulary that an eraser may use to keep everything else: every second concept of the
    file.
    """
    return list(concepts()[0::2])


def judged() -> list[Concept]:
    """The other half, which no eraser is ever given: near and far are measured on these alone."""
    return list(concepts()[1::2])


def near(concept: Concept, count: int = 4) -> list[Concept]:
    """The judged concepts nearest in the file's order, same group first.

    The file is ordered by likeness.
    """
    order = concepts().index(concept)
    rest = [c for c in judged() if c != concept]
    return sorted(rest, key=lambda c: (c.group != concept.group, abs(concepts().index(c) - order)))[:count]


def far(concept: Concept, count: int = 12) -> list[Concept]:
    """Judged concepts of other groups, spread evenly over the file."""
    close = {c.name for c in near(concept)}
    rest = [c for c in judged() if c.group != concept.group and c.name not in close]
    return [rest[i * len(rest) // count] for i in range(min(count, len(rest)))]
