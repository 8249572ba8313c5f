"""An anchor as the target (RealEra, arXiv 2410.09140): the concept is drawn as the empty prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import Target, TargetPart, Terms
from ..context import Context
from ..states import Rows, States


@dataclass(frozen=True)
class Anchor(Target):
    """Nothing to set."""

    def start(self, context: Context) -> AnchorTarget:
        return AnchorTarget(context)


@dataclass
class AnchorTarget(TargetPart):
    context: Context

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """eps0(z_t, T0("")) for every row."""
        return {"erase": Rows(states.z, states.t, cond, states.eps_empty, self.context.unit(states.t))}
