"""Cells beyond the four: the hard suite, other words from the user, and lists of prompts."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from ..diffusion.knowledge import Judge, Prompt
from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..prompts.templates import SHOWN_ON, picture_of
from ..spec import ErasureSpec
from .cells import CELLS, EVALUATION_SEED
from .hard import HARD_CELLS, hard_prompts
from .lists import PromptList

QUICK, HARD = "quick", "hard"
SUITES = (QUICK, HARD)
ALSO = "also"
LIST_SEED = 20_000  # further than the other cells' seeds, for lists without any


@dataclass(frozen=True)
class Further:
    """suite: see SUITES. also: other words for the concept, in any language, which make the cell "also".
    lists: each a cell of its own. list_images: pictures of a list, evenly from it; None: as many as of every
    other cell; 0: all.
    """

    suite: str = QUICK
    also: tuple[str, ...] = ()
    lists: tuple[PromptList, ...] = ()
    list_images: int | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of the further cells."""
        hard = HARD_CELLS if self.suite == HARD else ()
        return (*hard, *((ALSO,) if self.also else ()), *(own.name for own in self.lists))

    def check(self) -> None:
        """Raises SageError where two cells would have one name."""
        taken = [*CELLS, *HARD_CELLS, ALSO, "attacked"]
        for own in self.lists:
            if own.name in taken or own.name.startswith("drift"):
                raise SageError(
                    f"The name {own.name!r} of a list of prompts is taken; give another: NAME=FILE."
                )
            taken.append(own.name)

    def prompts(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        judge: Judge | None,
        known: list[Prompt],
        images: int,
        seed: int,
    ) -> list[Prompt]:
        """The further cells' prompts, to stand behind the `known` ones of the four cells."""
        expected = judge.expected(spec.concept) if judge else spec.concept
        kind = spec.kind_of(model.knowledge.styles)
        prompts = []
        if self.suite == HARD:
            own = [(i, p) for i, p in enumerate(known) if p.cell == "concept"]
            prompts += hard_prompts(own, [spec.concept, expected], kind)
        first = EVALUATION_SEED + 1000 * seed
        for i, word in zip(range(images if self.also else 0), itertools.cycle(self.also)):
            thing = SHOWN_ON[i % len(SHOWN_ON)]
            prompts.append(Prompt(ALSO, picture_of(word, kind, thing), expected, first + i, thing))
        count = images if self.list_images is None else self.list_images
        for own_list in self.lists:
            for i, line in enumerate(own_list.spread(count)):
                number = first + LIST_SEED + i if line.seed is None else line.seed
                prompt = Prompt(own_list.name, line.text, expected, number)
                if line.guidance is not None:
                    prompt = dataclasses.replace(prompt, guidance=line.guidance)
                prompts.append(prompt)
        return prompts
