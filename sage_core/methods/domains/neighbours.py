"""RealEra's domain (arXiv 2410.09140): random neighbours of the concept's embedding.

The authors published neither code nor values; this is our reconstruction of the abstract: e' = e_c + delta
with cos(e', e_c) in [s1, s2].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import Domain, DomainPart
from ..context import Context


@dataclass(frozen=True)
class Neighbours(Domain):
    """nearest and farthest: s2 and s1, cosines to the concept's state; bare: the share of samples that are
    the concept itself.
    """

    farthest: float = 0.7
    nearest: float = 1.0
    bare: float = 0.5

    def start(self, context: Context) -> NeighboursDomain:
        return NeighboursDomain(self, context)


def around(
    cond: Conditioning,
    frozen: Conditioning,
    empty: Conditioning,
    cosines: torch.Tensor,
    generator: torch.Generator,
) -> Conditioning:
    """Rows of `cond` turned away from `frozen` in a random direction until their cosine to it is `cosines`
    [n].

    Measured from the empty prompt's state, over all tokens at once; the length stays. The shift itself is a
    constant, so that gradients reach an encoder in training through `cond`.
    """
    away = (frozen.hidden - empty.hidden).float()
    noise = torch.randn(away.shape, generator=generator).to(away)
    flat, other = away.flatten(1), noise.flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    other = other - (other * unit).sum(1, keepdim=True) * unit
    other = other / other.norm(dim=1, keepdim=True).clamp_min(1e-12)
    c = cosines.view(-1, 1).to(flat)
    moved = flat.norm(dim=1, keepdim=True) * (c * unit + (1 - c * c).clamp_min(0).sqrt() * other)
    return Conditioning(cond.hidden + (moved - flat).view_as(away).to(cond.hidden), cond.pooled)


def draw_cosines(rng: random.Random, low: float, high: float, count: int) -> torch.Tensor:
    return torch.tensor([rng.uniform(low, high) for _ in range(count)])


@dataclass
class NeighboursDomain(DomainPart):
    config: Neighbours
    context: Context

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """The concept's prompts, one a scene, some as they are and some turned away."""
        chosen = [(scene, rng.choice(self.context.names)) for scene in scenes]
        prompts = [self.context.plain(name, scene) for scene, name in chosen]
        cosines = draw_cosines(rng, self.config.farthest, self.config.nearest, len(scenes))
        cosines[[i for i in range(len(scenes)) if rng.random() < self.config.bare]] = 1.0
        frozen = self.context.frozen_rows(prompts)
        empty = self.context.frozen_rows([self.context.neutral(scene, name) for scene, name in chosen])
        return around(self.context.model.encode(prompts), frozen, empty, cosines, generator)
