"""UnlearnDiffAtk (Zhang et al., arXiv 2310.11868): real tokens in front of the prompt, found by gradients.

The erased model itself serves as the classifier: the adversarial tokens make it explain a noised picture of
the concept well,

    min over d of  E || eps_erased(z_t, T(d + prompt), t) - noise ||^2

Each token is a row of weights over the vocabulary. The weights take gradient steps and are projected back on
the simplex. The gradient is taken at the real tokens, those with the largest weights, and passed to the
weights as it is (straight through). Pictures of the concept come from the untouched model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.model import DiffusionModel
from ...spec import ErasureSpec
from .base import Attempt, OnEvent, attack_images, concept_prompt, denoising_loss, fixed_noised, marked
from .words import allowed, as_text, check_length, encode_first, tables


@dataclass(frozen=True)
class UnlearnDiffAtk:
    """steps: gradient steps, the budget; marks: fewer of them at which pictures are drawn too. tokens: in
    front of the prompt. batch: noised pictures that the loss is taken over, the same in every step. rate:
    of a step, relative to a row's largest gradient. restarts: searches from different random weights.
    latents: pictures of the concept.
    """

    name: str = "unlearn-diff"
    steps: int = 40
    tokens: int = 3
    batch: int = 8
    rate: float = 0.3
    restarts: int = 2
    latents: int = 16
    marks: tuple[int, ...] = (10,)
    title: ClassVar[str] = "UnlearnDiffAtk, tokens before the prompt"
    paper: ClassVar[str] = "UnlearnDiffAtk, Zhang et al., arXiv 2310.11868"
    unit: ClassVar[str] = "steps"
    telling: ClassVar[bool] = True

    @property
    def budgets(self) -> tuple[int, ...]:
        return marked(self.marks, self.steps)

    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """Pictures of the best tokens at every budget; `loss`: theirs."""
        prompt = concept_prompt(model, spec)
        check_length(model.text, self.tokens, prompt)
        ids = allowed(model, spec)
        for restart in range(self.restarts):
            on_event(f"{self.title}: {self.tokens} tokens, {self.steps} steps, start {restart + 1}")
            generator = torch.Generator().manual_seed(1000 * seed + restart)
            search = Search(model, self, ids, prompt, latents[: self.latents], generator)
            for step in range(1, self.steps + 1):
                search.step()
                if step in self.budgets:
                    tokens = model.text.assemble([[*search.best, *model.text.words(prompt)]])
                    with torch.no_grad():
                        cond = model.text.encode(tokens)
                    pictures = attack_images(model, cond, images, seed)
                    found = as_text(model.text, search.best)
                    yield Attempt(step, pictures, f"random {restart + 1}", search.loss, found)


class Search:
    """Weights [tokens, words] on the simplex; `best`: the ids with the lowest `loss` so far."""

    def __init__(self, model, config: UnlearnDiffAtk, ids: list[int], prompt: str, latents, generator):
        self.model, self.config, self.ids = model, config, ids
        self.tables = tables(model.text, ids)
        filler = [ids[0]] * config.tokens
        self.prompt = model.text.assemble([[*filler, *model.text.words(prompt)]])
        self.states = fixed_noised(model, latents, config.batch, generator)
        first = torch.rand(config.tokens, len(ids), generator=generator)
        self.weights = project(first / len(ids)).to(model.device)
        self.best: list[int] = filler
        self.loss = float("inf")

    def step(self) -> None:
        """One projected gradient step; the tokens that it starts from are the candidates."""
        chosen = self.weights.argmax(1)
        hard = torch.nn.functional.one_hot(chosen, len(self.ids)).float().requires_grad_(True)
        with torch.enable_grad():
            first = [hard @ table for table in self.tables]
            cond = encode_first(self.model.text, self.prompt, first)
            loss = denoising_loss(self.model, self.states, cond)
            (gradient,) = torch.autograd.grad(loss, hard)
        if loss.item() < self.loss:
            self.loss, self.best = loss.item(), [self.ids[i] for i in chosen.tolist()]
        gradient = gradient - gradient.mean(1, keepdim=True)  # along the simplex
        size = gradient.abs().amax(1, keepdim=True).clamp_min(1e-30)
        self.weights = project(self.weights - self.config.rate * gradient / size)


def project(rows: torch.Tensor) -> torch.Tensor:
    """The nearest points of the simplex to rows [n, m]: not negative, sum 1 (Duchi et al., ICML 2008)."""
    ordered = rows.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - 1
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    last = (ordered * count > excess).sum(1, keepdim=True)  # number of entries that stay positive
    return (rows - excess.gather(1, last - 1) / last).clamp_min(0)
