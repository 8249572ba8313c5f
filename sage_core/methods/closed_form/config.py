"""The settings of a closed form, as plain data (see edit.py for the equation)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ...diffusion.architecture import Family

LAYERS, VALUES = "readers", "values"  # fields of diffusion.architecture.Family


@dataclass(frozen=True)
class ClosedForm:
    """One round is UCE; every further round is RECE's. The figures behind the settings are in docs/lab.

    Args:
        keep_own: l of the equation. The larger it is, the more directions around the concept an edit takes
            along, and the weaker the edit is, differently for every concept.
        erase: s of the equation.
        retain: p of the equation.
        aim: the prompt that the concept becomes.
        ridge: RECE's l in the search for embeddings that still mean the concept.
        rounds: number of rounds, whatever the steps; None: the steps.
        templates: put the concept and the retained words into this many templates too.
        everywhere: retain every state of the retained prompts and of other styles, padding included, instead
            of the last word's alone. What one edit changes there is little, but it adds up over several.
        shared: weight of the mean state at every position, which all prompts share and which every edit would
            push the same way.
        reach: scale the edit until it removes this share of the concept's pull in prompts that it was not
            fitted on (0: not scaled). With a reach, all concepts are erased alike.
        style_reach: the same for a style, whose aim, the thing without the style, is near.
        keep_rank: reduce the edit to the adapter's own rank (the nearest such matrix), to train on.
        styled: edit a thing's names in the other styles too.
        layers: which matrices are edited: all that read the prompt itself (K and V of cross-attention), or
            the values alone, as the model's family names them.
    """

    keep_own: float = 0.5
    erase: float = 1.0
    retain: float = 1.0
    aim: str = " "
    ridge: float = 0.5
    rounds: int | None = None
    templates: int = 0
    everywhere: bool = False
    shared: float = 0.0
    reach: float = 0.0
    style_reach: float = 0.0
    keep_rank: bool = False
    styled: bool = False
    layers: str = LAYERS

    def weaker(self, share: float) -> ClosedForm:
        """The same with a share of its reach."""
        return dataclasses.replace(self, reach=share * self.reach, style_reach=share * self.style_reach)

    def endings(self, family: Family) -> tuple[str, ...]:
        """Of the names of the matrices that are edited."""
        return family.readers if self.layers == LAYERS else family.values
