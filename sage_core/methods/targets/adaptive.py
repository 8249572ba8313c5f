"""AGE's adaptive target (Bui et al., arXiv 2501.18950): the word nearby at which erasing hurts most, sought
by ascent.

    min over weights, max over pi   |z0(c_e) - [z0_0(c_t) - eta (z0_0(c_e) - z0_0(c_t))]|^2 + lambda |z0(c_t) - z0_0(c_t)|^2

with c_t = GumbelSoftmax(pi) . E. The paper moves pi on both terms; the authors' released script detaches the
first term's target, so that only the second moves it. This is the paper.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import FORWARD, ROW
from ...diffusion.text import Conditioning
from ..search.mixture import Mixture
from ..states import Rows, States


@dataclass(frozen=True)
class Adaptive:
    """eta as in ESD; keep: lambda; words: how many candidates; temperature, hard, top, rate: of the
    Gumbel-softmax choice (the paper's settings for objects; styles: temperature 2, soft, top 5, rate 1e-3).
    """

    eta: float = 1.0
    keep: float = 1.0
    words: int = 100
    temperature: float = 0.1
    hard: bool = True
    top: int | None = None
    rate: float = 1e-2

    def passes(self, walk: int, batch: int) -> int:
        """UNet passes a step beyond the erased rows; `walk`: of drawing a noisy latent, where none is banked."""
        return batch * (
            FORWARD + ROW + ROW + FORWARD + ROW
        )  # erased, trained, frozen with gradients, frozen again, kept

    def start(self, context) -> AdaptiveTarget:
        mixture = Mixture(
            context, context.nearest(self.words), self.temperature, self.hard, self.rate, self.top
        )
        return AdaptiveTarget(self, context, mixture)


@dataclass
class AdaptiveTarget:
    """`kept`: the rows of the retention term, which shares this step's word (retention.SameTarget hands them
    out).
    """

    config: Adaptive
    context: object
    mixture: Mixture
    kept: Rows | None = None

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Rows:
        """Move pi one step uphill, then aim at the word that it chooses."""
        weight = self.context.z0_weight(states.t)
        n = len(states.z)
        with torch.no_grad():
            eps_erased = self.context.model.predict_noise(states.z, states.t, cond.detach())

        def objective(weights: torch.Tensor) -> torch.Tensor:
            word = self.mixture.embed(weights, n)
            trained, frozen = (
                self.context.model.predict_noise(states.z, states.t, word),
                self.context.predict_frozen(states.z, states.t, word),
            )
            erase = eps_erased - (frozen - self.config.eta * (states.eps_concept - frozen))
            return (weight * erase.square()).mean() + self.config.keep * (
                weight * (trained - frozen).square()
            ).mean()

        self.mixture.ascend(objective, generator)
        weights = self.mixture.weights(generator).detach()
        with torch.no_grad():
            frozen = self.context.predict_frozen(states.z, states.t, self.mixture.embed(weights, n))
        self.kept = Rows(
            states.z, states.t, self.mixture.trained(weights, n), frozen, self.config.keep * weight
        )
        return Rows(
            states.z, states.t, cond, frozen - self.config.eta * (states.eps_concept - frozen), weight
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a saved run needs to go on."""
        return self.mixture.tensors()

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.mixture.load(tensors)
