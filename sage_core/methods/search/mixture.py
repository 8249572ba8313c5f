"""A learnt choice among words, c = GumbelSoftmax(pi) .

E, as in EAP (arXiv 2410.15618) and AGE (arXiv 2501.18950).

EAP takes the 1,000 nearest words of a large vocabulary and reduces them to 100 centres by k-means; the lists
here hold fewer words than that, so the nearest are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...diffusion.text import Conditioning
from ..context import Context
from .adam import load_adam


class Mixture:
    """pi over `words`, moved uphill by Adam. `hard`: one word at a time, gradients straight through."""

    def __init__(self, context: Context, words: list[str], temperature: float, hard: bool, rate: float):
        self.context, self.words = context, words
        self.temperature, self.hard = temperature, hard
        self.frozen = context.frozen_rows(words)
        self.pi = torch.zeros(len(words), device=self.frozen.hidden.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.pi], lr=rate, maximize=True)

    def weights(self, generator: torch.Generator) -> torch.Tensor:
        """A Gumbel-softmax sample over the words; [words], sums to one, differentiable with respect to pi."""
        uniform = torch.rand(len(self.words), generator=generator).clamp_min(1e-10).to(self.pi.device)
        soft = ((self.pi.log_softmax(0) - (-uniform.log()).log()) / self.temperature).softmax(0)
        if not self.hard:
            return soft
        one = torch.zeros_like(soft).index_fill(0, soft.argmax().view(1), 1.0)
        return one - soft.detach() + soft

    def embed(self, weights: torch.Tensor, count: int) -> Conditioning:
        """weights . E0 with the frozen encoder's states, repeated to `count` rows."""
        hidden = torch.einsum("w,wtd->td", weights, self.frozen.hidden)
        pooled = None if self.frozen.pooled is None else weights @ self.frozen.pooled
        return Conditioning(
            hidden.expand(count, -1, -1), None if pooled is None else pooled.expand(count, -1)
        )

    def trained(self, weights: torch.Tensor, count: int) -> Conditioning:
        """weights . T(words): the same mixture as the encoder in training has it."""
        chosen = (weights.detach() > 1e-6).nonzero().flatten().tolist()
        cond, w = self.context.model.encode([self.words[i] for i in chosen]), weights.detach()[chosen]
        hidden = torch.einsum("w,wtd->td", w, cond.hidden.float())
        pooled = None if cond.pooled is None else w @ cond.pooled.float()
        return Conditioning(
            hidden.expand(count, -1, -1), None if pooled is None else pooled.expand(count, -1)
        )

    def ascend(self, objective: Callable[[torch.Tensor], torch.Tensor], generator: torch.Generator) -> None:
        """One step of pi uphill on objective(weights)."""
        self.pi.grad = torch.autograd.grad(objective(self.weights(generator)), self.pi)[0]
        self.optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"pi": self.pi.detach()} | dict(self.optimizer.state[self.pi].items())

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.pi.copy_(tensors["pi"])
        load_adam(self.optimizer, self.pi, tensors)
