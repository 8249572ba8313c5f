"""What a search of the domain found, as plain data that a file's metadata holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import SageError, shown

CLEAR = 0.4  # a gap of at least this share of the way is called clear
GROUPS = ("means", "between", "close")


@dataclass(frozen=True)
class Word:
    """A word and the cosine of its pull with the concept's."""

    text: str
    pull: float


@dataclass(frozen=True)
class Domain:
    """What a search found.

    Args:
        means: words that mean the concept, strongest first; the concept and the given names are not among
            them. They are erased with it.
        between: words that draw it in part. They are neither erased nor kept.
        close: the words below, nearest first. They are kept first of all.
        threshold: cosine in the middle of the gap below `means`.
        clearness: the gap's share of the way from the concept to the least like of the words, 0 to 1.
        passes: UNet passes of the search.
    """

    means: tuple[Word, ...] = ()
    between: tuple[Word, ...] = ()
    close: tuple[Word, ...] = ()
    threshold: float = 1.0
    clearness: float = 0.0
    passes: int = 0

    @property
    def clear(self) -> bool:
        return self.clearness >= CLEAR

    def lines(self, concept: str) -> list[str]:
        """What to tell the user."""
        sure = "a clear gap" if self.clear else "no clear gap, so look at the lists"
        return [
            f"also means {concept!r}, and is erased with it: {_listed(self.means)}",
            f"means it in part, and is left alone: {_listed(self.between)}",
            f"close to it, and kept: {_listed(self.close)}",
            f"boundary at {self.threshold:.2f}, {sure}; {self.passes} UNet passes",
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is its inverse."""
        words = {group: [[w.text, w.pull] for w in getattr(self, group)] for group in GROUPS}
        return words | {"threshold": self.threshold, "clearness": self.clearness, "passes": self.passes}

    @classmethod
    def from_json(cls, data: object) -> Domain:
        """Raises SageError on anything that `to_json` does not write."""
        try:
            if not isinstance(data, dict):
                raise TypeError("no JSON object")
            words = {group: tuple(Word(str(t), float(p)) for t, p in data[group]) for group in GROUPS}
            numbers = float(data["threshold"]), float(data["clearness"]), int(data["passes"])
        except (KeyError, TypeError, ValueError) as error:
            raise SageError(
                f"The recorded domain cannot be read ({shown(error)}); leave it out, and it is searched anew."
            ) from error
        return cls(words["means"], words["between"], words["close"], *numbers)


def _listed(words: tuple[Word, ...]) -> str:
    return ", ".join(f"{w.text} {w.pull:.2f}" for w in words) or "no other word"
