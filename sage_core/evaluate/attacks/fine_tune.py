"""Fine-tuning: how many steps on how many pictures teach the erased model the concept again.

A LoRA (Hu et al., arXiv 2106.09685) on top of the erased model, trained with the denoising loss on pictures
of the concept under its own prompt (the personalisation probe of Liu and Zhang, arXiv 2505.16174):

    min over the LoRA of  E || eps(z_t, T(prompt), t) - noise ||^2

Any model learns any concept so, sooner or later: what counts is how soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.model import DiffusionModel
from ...lora.adapter import Adapter
from ...lora.surfaces import surface_layers
from ...spec import ErasureSpec
from .base import Attempt, OnEvent, attack_images, concept_prompt, denoising_loss, marked, random_noised


@dataclass(frozen=True)
class FineTuning:
    """steps: of training, the budget; marks: fewer of them at which pictures are drawn too. pictures: how
    many it is trained on, one start each. batch: noised pictures a step. rate: of Adam. rank, surface: of the
    LoRA. latents: pictures of the concept that it is given.
    """

    name: str = "fine-tune"
    steps: int = 60
    pictures: tuple[int, ...] = (4, 16)
    batch: int = 8
    rate: float = 1e-3
    rank: int = 4
    surface: str = "cross_attention"
    latents: int = 16
    marks: tuple[int, ...] = (5, 20)
    title: ClassVar[str] = "fine-tuning"
    paper: ClassVar[str] = "Liu and Zhang, arXiv 2505.16174"
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
        """Pictures at every budget for every number of pictures; `loss`: of the last step."""
        for count in self.pictures:
            on_event(f"{self.title}: {self.steps} steps on {count} pictures")
            yield from self._on(model, spec, latents[:count], images, seed, f"{count} pictures")

    def _on(self, model, spec, latents, images, seed, start) -> Iterator[Attempt]:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            cond = model.encode([concept_prompt(model, spec)])
        layers = surface_layers(model, self.surface)
        adapter = Adapter.create(layers, self.rank, float(self.rank), generator)
        try:
            optimizer = torch.optim.Adam(adapter.parameters(), lr=self.rate)
            for step in range(1, self.steps + 1):
                states = random_noised(model, latents, self.batch, generator)
                with torch.enable_grad():
                    loss = denoising_loss(model, states, cond)
                    gradients = torch.autograd.grad(loss, adapter.parameters())
                for p, g in zip(adapter.parameters(), gradients):
                    p.grad = g
                optimizer.step()
                if step in self.budgets:
                    yield Attempt(step, attack_images(model, cond, images, seed), start, loss.item())
        finally:
            adapter.remove()
