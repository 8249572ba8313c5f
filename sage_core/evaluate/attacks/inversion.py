"""Concept inversion: learn word embeddings that make the erased model draw the concept again.

Textual inversion (Gal et al., arXiv 2208.01618) against an eraser (Pham et al., arXiv 2308.01508):

    v* = argmin_v  E || eps_erased(z_t, T(prompt with v), t) - noise ||^2

where z_t is noised from images of the concept made by the ORIGINAL model. Nothing of the erased word need be
used: starts are a neutral word, random embeddings and the concept's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...prompts.compose import compose_vectors, encode_vectors, own_vectors, random_vectors
from ...spec import ErasureSpec
from .base import Attempt, Noised, OnEvent, attack_images, denoising_loss, marked, random_noised, template_of

CONCEPT, RANDOM = "concept", "random"  # starts that are no word


@dataclass(frozen=True)
class ConceptInversion:
    """The defaults are the quick attack; STRONG is the one to judge an erasure by.

    Args:
        steps: of the optimisation: the budget. marks: fewer steps at which pictures are drawn too.
        batch: noised pictures a step.
        rate: of Adam, in units of the embedding table's root mean square.
        vectors: free tokens in place of the concept's name.
        latents: pictures of the concept to learn from.
        starts: words to start from; "concept": the concept's own tokens, "random": random embeddings.
    """

    name: str = "quick"
    steps: int = 150
    batch: int = 8
    rate: float = 0.1
    vectors: int = 2
    latents: int = 16
    starts: tuple[str, ...] = (CONCEPT, "thing")
    marks: tuple[int, ...] = ()
    title: ClassVar[str] = "concept inversion"
    paper: ClassVar[str] = "Pham et al., arXiv 2308.01508"
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
        """Pictures at every budget from every start; `loss`: mean of the last quarter of the steps so far."""
        for start in self.starts:
            on_event(f"{self.title}: {self.vectors} tokens from {start!r}, {self.steps} steps")
            yield from self._from(model, spec, latents[: self.latents], images, seed, start)

    def _from(self, model, spec, latents, images, seed, start) -> Iterator[Attempt]:
        for step, cond, loss in self.search(model, spec, latents, seed, start):
            yield Attempt(step, attack_images(model, cond, images, seed), start, loss)

    def search(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        seed: int,
        start: str,
        on_step: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Conditioning, float]]:
        """(step, conditioning of the attack's prompt [1 row], loss) at every budget, from one start."""
        generator = torch.Generator().manual_seed(seed)
        prompts = compose_vectors(model.text, self.vectors, template_of(model, spec), spec.concept)
        free = self._first(model, spec, start, generator)
        # In units of the prompt's own embeddings, not of the table: rare tokens are shorter.
        scales = [b.square().mean().sqrt().item() for b in model.text.embed(prompts.tokens)]
        optimizer = torch.optim.Adam(
            [{"params": [v], "lr": self.rate * scale} for v, scale in zip(free, scales)]
        )
        losses = []
        for step in range(1, self.steps + 1):
            states = random_noised(model, latents, self.batch, generator)
            with torch.enable_grad():
                loss = self.loss(model, spec, states, encode_vectors(model.text, prompts, free))
                gradients = torch.autograd.grad(loss, free)
            for v, g in zip(free, gradients):
                v.grad = g
            optimizer.step()
            losses.append(loss.item())
            on_step()
            if step in self.budgets:
                with torch.no_grad():
                    cond = encode_vectors(model.text, prompts, free)
                tail = losses[-max(1, step // 4) :]
                yield step, cond, sum(tail) / len(tail)

    def loss(
        self, model: DiffusionModel, spec: ErasureSpec, states: Noised, cond: Conditioning
    ) -> torch.Tensor:
        """What the search makes small; `cond` has one row."""
        return denoising_loss(model, states, cond)

    def _first(self, model, spec, start: str, generator) -> list[torch.Tensor]:
        """The embeddings to start from, [vectors, width], one tensor an encoder."""
        if start == RANDOM:
            free = random_vectors(model.text, self.vectors, generator)
        else:
            free = own_vectors(model.text, spec.concept if start == CONCEPT else start, self.vectors)
        return [v.requires_grad_(True) for v in free]


STRONG = ConceptInversion(
    "inversion", steps=120, vectors=3, starts=("object", CONCEPT, RANDOM), marks=(20, 60)
)
