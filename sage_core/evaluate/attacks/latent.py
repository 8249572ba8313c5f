"""Latent inversion: the noise from which the erased model draws a picture of the concept.

A picture by the untouched model is led back to noise by the erased model and drawn again from there, both
with the concept's prompt and without guidance (Rusanovsky et al., arXiv 2412.00782). DDIM (Song et al.,
arXiv 2010.02502) runs in both directions:

    z_s = sqrt(abar_s) (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t) + sqrt(1 - abar_s) eps

Towards noise, eps belongs to the end of the step, which is found by a few rounds of a fixed point.

A warning: this is a property of every flow that can be inverted. Seven pictures of eight of a thing that a
model never learnt come back too (docs/lab/attacks.md). So a high success says nothing of what a model
remembers, and the attack is not `telling`: it is reported, but not as the strongest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...spec import ErasureSpec
from .base import Attempt, OnEvent, concept_prompt


@dataclass(frozen=True)
class LatentInversion:
    """steps: of DDIM in each direction, one budget each. rounds: of the fixed point, a step. latents:
    pictures that are inverted, used in turn.
    """

    name: str = "latent"
    steps: tuple[int, ...] = (10, 25)
    rounds: int = 3
    latents: int = 16
    title: ClassVar[str] = "latent inversion"
    paper: ClassVar[str] = "Rusanovsky et al., arXiv 2412.00782"
    unit: ClassVar[str] = "DDIM steps"
    telling: ClassVar[bool] = False

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.steps)))

    @torch.no_grad()
    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """Pictures drawn again; `loss`: mean squared distance of their latents to the given ones."""
        clean = latents[torch.arange(images, device=latents.device) % len(latents)]
        cond = Conditioning.cat([model.encode([concept_prompt(model, spec)])] * images)
        for steps in self.budgets:
            on_event(f"{self.title}: {steps} steps")
            noise = to_noise(model, clean, cond, steps, self.rounds)
            again = to_picture(model, noise, cond, steps)
            loss = float((again - clean).square().mean())
            yield Attempt(steps, model.decode(again), "the untouched model's pictures", loss)


def times(steps: int) -> list[int]:
    """Times of the ends of `steps` equal steps from a picture to noise; a picture itself is before them."""
    return [round(1000 * (i + 1) / steps) - 1 for i in range(steps)]


def moved(z: torch.Tensor, eps: torch.Tensor, a: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """DDIM's step from abar = a to abar = to."""
    return to.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - to).sqrt() * eps


def to_noise(model: DiffusionModel, z: torch.Tensor, cond: Conditioning, steps: int, rounds: int):
    """Clean latents [n, 4, h, w] led to the last time."""
    a = torch.ones((), device=z.device)
    for time in times(steps):
        t, to, end = torch.full((len(z),), time, device=z.device), model.alphas[time], z
        for _ in range(rounds):
            end = moved(z, model.predict_noise(end, t, cond), a, to)
        z, a = end, to
    return z


def to_picture(model: DiffusionModel, z: torch.Tensor, cond: Conditioning, steps: int) -> torch.Tensor:
    """Noise [n, 4, h, w] at the last time led to clean latents."""
    way = times(steps)
    for i in reversed(range(steps)):
        t = torch.full((len(z),), way[i], device=z.device)
        to = model.alphas[way[i - 1]] if i else torch.ones((), device=z.device)
        z = moved(z, model.predict_noise(z, t, cond), model.alphas[way[i]], to)
    return z
