"""An anchor as the target (RealEra, arXiv 2410.09140): the concept is drawn as another prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..states import Rows, States


@dataclass(frozen=True)
class Anchor:
    """prompt: what the concept becomes; the empty prompt unless one is given."""

    prompt: str = ""

    def start(self, context) -> AnchorTarget:
        return AnchorTarget(self, context)


@dataclass
class AnchorTarget:
    config: Anchor
    context: object

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Rows:
        """eps0(z_t, T0(anchor)) for every row."""
        if not self.config.prompt:
            return Rows(states.z, states.t, cond, states.eps_empty, 1.0)
        anchor = self.context.frozen_rows([self.config.prompt] * len(states.z))
        with torch.no_grad():
            return Rows(
                states.z, states.t, cond, self.context.predict_frozen(states.z, states.t, anchor), 1.0
            )
