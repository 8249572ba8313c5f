"""RealEra's beyond-concept term (arXiv 2410.09140, our reconstruction): embeddings outside the erased
neighbourhood keep their predicted noise. | eps(z_t, e'') - eps0(z_t, e'') |^2 with cos(e'', e_c) in [low,
high], below the domain's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import FORWARD, ROW
from ...diffusion.text import Conditioning
from ..base import Retention, RetentionPart
from ..context import Context
from ..domains.neighbours import around, draw_cosines
from ..states import Rows


@dataclass(frozen=True)
class BeyondConcept(Retention):
    """weight: of the term; batch: samples a step; low and high: cosines to the concept's state."""

    weight: float = 1.0
    batch: int = 2
    low: float = 0.0
    high: float = 0.5

    def passes(self, walk: int, batch: int) -> int:
        return self.batch * (FORWARD + ROW + walk)

    def rows(self, batch: int) -> int:
        return self.batch

    def start(self, context: Context) -> BeyondConceptTerm:
        return BeyondConceptTerm(self, context)


@dataclass
class BeyondConceptTerm(RetentionPart):
    config: BeyondConcept
    context: Context

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """Rows at the concept's latents under embeddings that lie beyond it."""
        count = self.config.batch
        states = self.context.source.concept(rng, count)
        chosen = [(scene, rng.choice(self.context.names)) for scene in states.scenes]
        prompts = [self.context.plain(name, scene) for scene, name in chosen]
        frozen = self.context.frozen_rows(prompts)
        empty = self.context.frozen_rows([self.context.neutral(scene, name) for scene, name in chosen])
        shifts = around(
            frozen, frozen, empty, draw_cosines(rng, self.config.low, self.config.high, count), generator
        )
        with torch.no_grad():
            target = self.context.predict_frozen(states.z, states.t, shifts)
        trained = self.context.model.encode(prompts)
        moved = Conditioning(
            trained.hidden + (shifts.hidden - frozen.hidden).to(trained.hidden), trained.pooled
        )
        return Rows(states.z, states.t, moved, target, self.config.weight * self.context.unit(states.t))
