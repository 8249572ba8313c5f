"""What is known about one particular model beyond its tensors. The core knows no model by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import SageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prompt:
    """One picture to draw: what is asked for, in which words, from which seed.

    `expected`: the concept or the style that must be seen; `thing`: what a style is shown on, or what else is
    in the picture. `strength`: above 0, the picture is an edit of the one that the untouched model draws for
    the prompt with the number `edits`, and this share of its steps is drawn again. `hole`: above 0, the
    edit is an inpainting, and this share of the side is drawn anew, in the middle. `weighted`: the text has
    weights, such as "(dog:1.4)".
    """

    cell: str
    text: str
    expected: str
    seed: int
    thing: str = ""
    guidance: float = 5.0
    strength: float = 0.0
    edits: int = -1
    hole: float = 0.0
    weighted: bool = False


class Judge(Protocol):
    """Says what a model's pictures show, and knows which prompts it can judge.

    name: in a sentence. cannot: what it cannot know, in a sentence; empty where that is nothing much.
    """

    name: str
    cannot: str

    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> Sequence[bool | None]:
        """Whether each of the pictures [n, 3, H, W], in [-1, 1], drawn for these prompts, shows what is
        expected of it; None where the judge does not know what that is.
        """

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell of an evaluation."""

    def expected(self, concept: str) -> str:
        """The name that `sees` has for the erased concept."""


def no_synonyms(word: str) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Knowledge:
    """The defaults describe a model about which nothing is known.

    title: its name in a sentence.
    concepts: the things that it can draw; None: anything.
    drawable: every word for them, in lower case.
    styles: names of styles that this model knows, besides those that every model is taken to know.
    synonyms: other words for one of its concepts.
    pixels: side of its pictures; None: what its configuration says.
    quick: training and pictures take seconds on a CPU, and fit into any memory.
    judge: loads the judge of its pictures; None: there is no judge.
    """

    title: str = "the model"
    concepts: tuple[str, ...] | None = None
    drawable: frozenset[str] = frozenset()
    styles: tuple[str, ...] = ()
    synonyms: Callable[[str], tuple[str, ...]] = no_synonyms
    pixels: int | None = None
    quick: bool = False
    judge: Callable[[], Judge] | None = None

    def check(self, names: list[str]) -> None:
        """Raise SageError if the model cannot draw one of the names."""
        if self.concepts is None:
            return
        for name in names:
            if " ".join(name.lower().split()) not in {*self.drawable, *self.styles}:
                raise SageError(
                    f"{self.title[0].upper()}{self.title[1:]} cannot draw {name!r}; choose one of its "
                    f"{len(self.concepts)} concepts, such as {', '.join(self.concepts[:8])}, or a style "
                    f"({', '.join(self.styles)})."
                )


UNKNOWN = Knowledge()
