"""SAGE's local retention: for other prompts the predicted noise stays what it was (arXiv 2506.09363).

L_local = | eps(z_t, T(r)) - eps0(z_t, T0(r)) |^2
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import ROW
from ..base import Retention, RetentionPart
from ..context import Context
from ..states import Rows


@dataclass(frozen=True)
class Noise(Retention):
    """weight: lambda_l; batch: samples a step."""

    weight: float = 1.0
    batch: int = 4

    def passes(self, walk: int, batch: int) -> int:
        return self.batch * (ROW + walk)

    def rows(self, batch: int) -> int:
        return self.batch

    def start(self, context: Context) -> NoiseTerm:
        return NoiseTerm(self, context)


@dataclass
class NoiseTerm(RetentionPart):
    config: Noise
    context: Context

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """Rows for the step's UNet batch: retained states of the bank, their prompts encoded as things
        stand.
        """
        kept = self.context.source.retained(rng, self.config.batch)
        weight = self.config.weight * self.context.unit(kept.t)
        return Rows(kept.z, kept.t, self.context.model.encode(kept.prompts), kept.eps, weight)
