"""Receler's concept-localised term (arXiv 2311.17717): where the concept is not attended to, nothing changes.

The paper holds its adapters' outputs at zero outside the region, layer by layer; a LoRA has no such outputs
of its own, so here it is the predicted noise that stays outside the region (our reading). The region is where
the picture's frozen attention looks at the concept's tokens: mean over heads and layers, scaled to [0, 1], at
least `threshold`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...diffusion.cost import FORWARD, ROW
from ..attention import Heard, listening, positions_of
from ..base import Retention, RetentionPart
from ..context import Context
from ..states import Rows


@dataclass(frozen=True)
class Region(Retention):
    """weight: of the term; batch: samples a step; threshold: of the mask (both weights are the authors')."""

    weight: float = 0.1
    batch: int = 1
    threshold: float = 0.1

    def passes(self, walk: int, batch: int) -> int:
        return self.batch * (FORWARD + ROW + walk)

    def rows(self, batch: int) -> int:
        return self.batch

    def start(self, context: Context) -> RegionTerm:
        return RegionTerm(self, context)


def looks_of(heard: list[Heard], positions: list[int]) -> list[torch.Tensor]:
    """How much each place of the picture looks at `positions`, a map for each layer; [n, 1, side, side]."""
    maps = []
    for layer in heard:
        shares = layer.looks(positions)[:, :, : layer.pictured].mean(-1).mean(1)
        side = int(shares.shape[1] ** 0.5)
        maps.append(shares.view(len(shares), 1, side, side).float())
    return maps


def region(maps: list[torch.Tensor], size: tuple[int, int], threshold: float) -> torch.Tensor:
    """True where the concept is attended to; [n, 1, *size]."""
    mean = torch.stack([F.interpolate(m, size, mode="bilinear") for m in maps]).mean(0)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return (mean - low) / (high - low).clamp_min(1e-12) >= threshold


@dataclass
class RegionTerm(RetentionPart):
    config: Region
    context: Context

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """Rows that keep the frozen prediction for the concept, outside its region."""
        states, name = self.context.source.concept(rng, self.config.batch), rng.choice(self.context.names)
        positions = positions_of(self.context.model.text, name)
        prompts = [self.context.plain(name, scene) for scene in states.scenes]
        frozen = self.context.frozen_rows(prompts)
        with torch.no_grad(), listening(self.context.model.unet) as heard:
            self.context.predict_frozen(states.z, states.t, frozen)
            maps = looks_of(heard, positions)
        outside = ~region(maps, (states.z.shape[2], states.z.shape[3]), self.config.threshold)
        cond = self.context.model.encode(prompts)
        weight = self.config.weight * self.context.unit(states.t) * outside.float()
        return Rows(states.z, states.t, cond, states.eps_concept, weight)
