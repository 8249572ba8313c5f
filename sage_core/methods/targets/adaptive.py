"""AGE's adaptive target (Bui et al., arXiv 2501.18950): the nearby word at which erasing hurts most.

    min over weights, max over pi
        | z0(c_e) - [z0_0(c_t) - eta (z0_0(c_e) - z0_0(c_t))] |^2 + lambda | z0(c_t) - z0_0(c_t) |^2

with c_t = GumbelSoftmax(pi) . E. The paper moves pi on both terms; the authors' released script detaches the
first term's target, so that only the second moves it. This is the paper.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import FORWARD, ROW
from ...diffusion.text import Conditioning
from ..base import Target, TargetPart, Terms
from ..context import Context
from ..search.mixture import Mixture
from ..states import Rows, States


@dataclass(frozen=True)
class Adaptive(Target):
    """eta as in ESD; keep: lambda; words: number of candidates; temperature, hard, rate: of the
    Gumbel-softmax choice (the paper's settings for objects).
    """

    eta: float = 1.0
    keep: float = 1.0
    words: int = 100
    temperature: float = 0.1
    hard: bool = True
    rate: float = 1e-2

    def passes(self, walk: int, batch: int) -> int:
        # erased, trained, frozen with gradients, frozen again, kept
        return batch * (FORWARD + ROW + ROW + FORWARD + ROW)

    def rows(self, batch: int) -> int:
        """The chosen word is kept as it is, at every latent of the step."""
        return batch

    def own_eta(self) -> float:
        return self.eta

    def with_eta(self, eta: float) -> Adaptive:
        return dataclasses.replace(self, eta=eta)

    def start(self, context: Context) -> AdaptiveTarget:
        mixture = Mixture(context, context.nearest(self.words), self.temperature, self.hard, self.rate)
        return AdaptiveTarget(self, context, mixture)


@dataclass
class AdaptiveTarget(TargetPart):
    config: Adaptive
    context: Context
    mixture: Mixture

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """Move pi one step uphill, then aim at the word that it chooses, and keep that word ("kept")."""
        model, eta, n = self.context.model, self.config.eta, len(states.z)
        weight = self.context.z0_weight(states.t)
        with torch.no_grad():
            eps_erased = model.predict_noise(states.z, states.t, cond.detach())

        def objective(weights: torch.Tensor) -> torch.Tensor:
            word = self.mixture.embed(weights, n)
            trained = model.predict_noise(states.z, states.t, word)
            frozen = self.context.predict_frozen(states.z, states.t, word)
            erase = eps_erased - (frozen - eta * (states.eps_concept - frozen))
            keep = (weight * (trained - frozen).square()).mean()
            return (weight * erase.square()).mean() + self.config.keep * keep

        self.mixture.ascend(objective, generator)
        weights = self.mixture.weights(generator).detach()
        with torch.no_grad():
            frozen = self.context.predict_frozen(states.z, states.t, self.mixture.embed(weights, n))
        target = frozen - eta * (states.eps_concept - frozen)
        word = self.mixture.trained(weights, n)
        return {
            "erase": Rows(states.z, states.t, cond, target, weight),
            "kept": Rows(states.z, states.t, word, frozen, self.config.keep * weight),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.mixture.tensors()

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.mixture.load(tensors)
