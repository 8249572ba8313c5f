"""EAP's retention (Bui et al., arXiv 2410.15618): keep the word that the erasing hurts most, sought by
ascent.

min over weights, max over pi   | z0(c_r) - z0_0(c_r) |^2,   c_r = GumbelSoftmax(pi) . E
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import FORWARD, ROW
from ..base import Retention, RetentionPart
from ..context import Context
from ..search.mixture import Mixture
from ..states import Rows


@dataclass(frozen=True)
class Adversarial(Retention):
    """weight: of the term; batch: samples a step; words: how many candidates; temperature, hard, rate: of the
    choice.
    """

    weight: float = 1.0
    batch: int = 1
    words: int = 100
    temperature: float = 2.0
    hard: bool = True
    rate: float = 1e-2

    def passes(self, walk: int, batch: int) -> int:
        return self.batch * (
            ROW + ROW + FORWARD + ROW + walk
        )  # trained and frozen with gradients, frozen again, kept

    def rows(self, batch: int) -> int:
        return self.batch

    def start(self, context: Context) -> AdversarialTerm:
        return AdversarialTerm(
            self,
            context,
            Mixture(context, context.nearest(self.words), self.temperature, self.hard, self.rate),
        )


@dataclass
class AdversarialTerm(RetentionPart):
    config: Adversarial
    context: Context
    mixture: Mixture

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """One ascent step of pi, then rows that keep the word it chooses."""
        kept = self.context.source.retained(rng, self.config.batch)
        weight, n = self.context.z0_weight(kept.t), len(kept.z)

        def damage(weights: torch.Tensor) -> torch.Tensor:
            word = self.mixture.embed(weights, n)
            change = self.context.model.predict_noise(kept.z, kept.t, word) - self.context.predict_frozen(
                kept.z, kept.t, word
            )
            return (weight * change.square()).mean()

        self.mixture.ascend(damage, generator)
        weights = self.mixture.weights(generator).detach()
        with torch.no_grad():
            frozen = self.context.predict_frozen(kept.z, kept.t, self.mixture.embed(weights, n))
        return Rows(kept.z, kept.t, self.mixture.trained(weights, n), frozen, self.config.weight * weight)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.mixture.tensors()

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.mixture.load(tensors)
