"""The target of ai-toolkit's concept sliders: strong negative guidance, with a usual prediction's spread."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import TargetPart, Terms
from ..context import Context
from ..states import Rows, States
from .negative_guidance import NegativeGuidance


@dataclass(frozen=True)
class Normalised(NegativeGuidance):
    """eta: three, as published. Without the second step such a target is brighter and harder than any
    prediction.
    """

    eta: float = 3.0

    def start(self, context: Context) -> TargetPart:
        return NormalisedTarget(self, context)


@dataclass
class NormalisedTarget(TargetPart):
    config: Normalised
    context: Context

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """eps0("") - eta (eps0(c) - eps0("")), with the mean and standard deviation of eps0("") in every
        sample; [n, 4, h, w].
        """
        pushed = states.eps_empty - self.config.eta * (states.eps_concept - states.eps_empty)
        target = like(pushed, states.eps_empty)
        return {"erase": Rows(states.z, states.t, cond, target, self.context.unit(states.t))}


def like(tensor: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """`tensor` [n, ...] with the mean and standard deviation that each sample of `usual` has."""
    dims = tuple(range(1, tensor.ndim))
    spread, mean = torch.std_mean(tensor, dims, keepdim=True)
    own_spread, own_mean = torch.std_mean(usual, dims, keepdim=True)
    return (tensor - mean) / spread.clamp_min(1e-6) * own_spread + own_mean
