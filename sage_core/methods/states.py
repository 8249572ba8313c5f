"""Noisy latents, samples of them for the UNet, and where they come from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

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
        weight = self.weight
        if isinstance(weight, torch.Tensor) and weight.ndim == 4 and len(weight) > 1:
            weight = weight[rows]
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

    @classmethod
    def without_latents(cls, scenes: list[str | None]) -> States:
        """Of a method that works in text space alone."""
        none = torch.empty(0)
        return cls(none, none, none, none, scenes)


@dataclass
class Kept:
    """Noisy latents of retained prompts and the frozen model's prediction for them."""

    z: torch.Tensor
    t: torch.Tensor
    eps: torch.Tensor
    prompts: list[str]


class LatentSource(Protocol):
    """Where noisy latents come from; the cycle has a bank and fresh trajectories (cycle/latents.py)."""

    def concept(self, rng: random.Random, count: int) -> States:
        """`count` states of the concept."""
        ...

    def retained(self, rng: random.Random, count: int) -> Kept:
        """`count` states of retained prompts."""
        ...


class NoLatents:
    """The source of a method that works in text space alone."""

    def concept(self, rng: random.Random, count: int) -> States:
        raise LookupError("this method draws no latents")

    def retained(self, rng: random.Random, count: int) -> Kept:
        raise LookupError("this method draws no latents")
