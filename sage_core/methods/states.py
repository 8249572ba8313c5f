"""Noisy latents, and samples of them for the UNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..diffusion.text import Conditioning


@dataclass
class Rows:
    """Samples for the UNet batch of a step: predict noise in `z` at `t` under `cond`, compare with `target`.

    `weight` of the squared error: a number, or a tensor that broadcasts over [n, 4, h, w].
    """

    z: torch.Tensor
    t: torch.Tensor
    cond: Conditioning
    target: torch.Tensor
    weight: float | torch.Tensor

    def loss(self, eps: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """Weighted mean squared error of predictions [n, 4, h, w], or of some rows of them."""
        return (self.weight * (eps - self.target).square())[rows].mean()

    def split(self, count: int) -> list[Rows]:
        """The same samples, at most `count` in each; the mean of their losses by number of samples is the
        loss of all.
        """
        return [self._part(slice(i, i + count)) for i in range(0, len(self.z), count)]

    def _part(self, rows: slice) -> Rows:
        weight = (
            self.weight[rows]
            if isinstance(self.weight, torch.Tensor) and self.weight.ndim == 4 and len(self.weight) > 1
            else self.weight
        )
        return Rows(self.z[rows], self.t[rows], self.cond[rows], self.target[rows], weight)


@dataclass
class States:
    """Noisy latents of the concept: z [n, 4, h, w], t [n], and the frozen model's eps0(z, c) and eps0(z, "").

    `scenes`: what stands beside the concept in each prompt (see Context); where there is one, it stays, in
    the place of the empty prompt.
    """

    z: torch.Tensor
    t: torch.Tensor
    eps_concept: torch.Tensor
    eps_empty: torch.Tensor
    scenes: list[str | None]


@dataclass
class Kept:
    """Noisy latents of retained prompts and the frozen model's prediction for them."""

    z: torch.Tensor
    t: torch.Tensor
    eps: torch.Tensor
    prompts: list[str]
