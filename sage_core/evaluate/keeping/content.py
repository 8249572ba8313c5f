"""Style against content: does the content stay where a style is erased, and do styles stay where a thing is?

Only a judge that names things and styles apart can say it: one with `shows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ...diffusion.knowledge import Prompt
from ...diffusion.model import DiffusionModel
from ...prompts.kinds import STYLE, THING
from ...prompts.templates import SHOWN_ON, plainest_in_style
from ...prompts.words import STYLES
from ...spec import ErasureSpec
from ..measure import Verdicts, wilson


@runtime_checkable
class NamesBoth(Protocol):
    """A judge that names what a picture shows and the style that it is in."""

    def shows(self, images: torch.Tensor, words: list[str], kind: str, rivals: list[str]) -> list[bool]:
        """Of each picture [n, 3, H, W] in [-1, 1], whether it shows its word.

        kind: of the words. rivals: what it may show instead.
        """


@dataclass(frozen=True)
class Pairs:
    """Pictures of the concept, each with what must stay in it: `stays`, of the kind `kind`."""

    prompts: list[Prompt]
    stays: list[str]
    kind: str

    def seen(self, judge: NamesBoth, images: torch.Tensor) -> list[bool]:
        """Whether each of the pictures shows what must stay."""
        return judge.shows(images, self.stays, self.kind, list(dict.fromkeys(self.stays)))


def pairs(model: DiffusionModel, spec: ErasureSpec, expected: str, images: int, seed: int) -> Pairs:
    """`images` prompts: a style on different things, or a thing in different styles.

    expected: the judge's name of the concept.
    """
    kind = spec.kind_of(model.knowledge.styles)
    others = SHOWN_ON if kind == STYLE else model.knowledge.styles or STYLES
    prompts, stays = [], []
    for i, other in zip(range(images), itertools.cycle(others)):
        thing, style = (other, spec.concept) if kind == STYLE else (spec.concept, other)
        text = plainest_in_style(thing, style, kind=THING if kind == STYLE else kind)
        prompts.append(Prompt("content", text, expected, seed + i, other if kind == STYLE else ""))
        stays.append(other)
    return Pairs(prompts, stays, THING if kind == STYLE else STYLE)


def about(own: Pairs, before: Sequence[bool], after: Sequence[bool], gone: tuple[Verdicts, Verdicts]) -> dict:
    """For the report. gone: the judge's verdicts on the concept in the same pictures, before and after.

    kept: of the pictures that showed what must stay before, the share that still do; its Wilson interval. by:
    the same for each thing or style.
    """
    still = [bool(a) for b, a in zip(before, after) if b]
    by = {}
    for word in dict.fromkeys(own.stays):
        part = [bool(a) for w, b, a in zip(own.stays, before, after) if w == word and b]
        by[word] = round(sum(part) / len(part), 4) if part else None
    ends = wilson(sum(still), len(still)) if still else None
    return {
        "stays": "content" if own.kind == THING else "styles",
        "before": round(sum(before) / len(before), 4),
        "after": round(sum(after) / len(after), 4),
        "kept": round(sum(still) / len(still), 4) if still else None,
        "interval": None if ends is None else [round(end, 4) for end in ends],
        "concept": {"before": _share(gone[0]), "after": _share(gone[1])},
        "pictures": len(own.prompts),
        "by": by,
    }


def _share(seen: Verdicts) -> float | None:
    known = [bool(s) for s in seen if s is not None]
    return round(sum(known) / len(known), 4) if known else None
