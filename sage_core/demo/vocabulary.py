"""What a small model can draw: concepts, their synonyms, groups, styles, and which of them may judge an
erasure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..prompts.templates import plainest_in_style

Pair = tuple[str, str]  # a concept and a style


@dataclass(frozen=True)
class Concept:
    """One thing: its canonical name, the art's slug, its group, the other words for it, and descriptions of
    it ("a pet that barks").
    """

    name: str
    icon: str
    group: str
    synonyms: tuple[str, ...]
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """All concepts in file order, and the styles. Inside a group, order means likeness.

    held_out: pairs that training never shows: does the model put a known thing into a known style that it
    never saw it in?
    """

    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]
    held_out: frozenset[Pair] = frozenset()

    @classmethod
    def read(cls, path: Path, styles: Iterable[str], held_out: Iterable[Pair] = ()) -> Vocabulary:
        """From lines "name | icon | group | synonyms", with descriptions in a fifth column or without."""
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                name, icon, group, *lists = (cell.strip() for cell in line.split("|"))
                rows.append(Concept(name, icon, group, *(_listed(cell) for cell in lists)))
        return cls(tuple(rows), tuple(styles), frozenset(held_out))

    @cached_property
    def names(self) -> list[str]:
        return [c.name for c in self.concepts]

    def find(self, text: str) -> Concept | None:
        """The first concept that a name or synonym stands for, or None."""
        wanted = " ".join(text.lower().split())
        return next((c for c in self.concepts if wanted == c.name or wanted in c.synonyms), None)

    def retained(self) -> list[Concept]:
        """The half of the vocabulary that a study may retain: every second concept of the file."""
        return list(self.concepts[0::2])

    def judged(self) -> list[Concept]:
        """The other half, which no eraser is ever given: near and far are measured on these alone."""
        return list(self.concepts[1::2])

    def near(self, concept: Concept, count: int = 4) -> list[Concept]:
        """The judged concepts nearest in the file's order, same group first.

        The file is ordered by likeness.
        """
        order = self.concepts.index(concept)
        rest = [c for c in self.judged() if c != concept]
        place = {c: i for i, c in enumerate(self.concepts)}
        return sorted(rest, key=lambda c: (c.group != concept.group, abs(place[c] - order)))[:count]

    def far(self, concept: Concept, count: int = 12) -> list[Concept]:
        """Judged concepts of other groups, spread evenly over the file."""
        close = {c.name for c in self.near(concept)}
        rest = [c for c in self.judged() if c.group != concept.group and c.name not in close]
        return [rest[i * len(rest) // count] for i in range(min(count, len(rest)))]


def canonical(style: str, name: str) -> str:
    """The prompt by which a thing in a style is judged: "an ink drawing of an owl"."""
    return plainest_in_style(name, style)


def _listed(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(","))


BUNDLED = Vocabulary.read(
    Path(__file__).parent / "concepts.txt",
    ("cartoon", "glossy", "ink", "pixel art"),
    {
        ("fox", "pixel art"),
        ("apple", "ink"),
        ("castle", "glossy"),
        ("guitar", "cartoon"),
        ("umbrella", "ink"),
        ("penguin", "glossy"),
    },
)
