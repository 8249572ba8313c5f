"""The target of ai-toolkit's concept sliders: strong negative guidance, with a usual prediction's spread."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import Terms
from ..context import Context
from ..states import Rows, States
from .negative_guidance import NegativeGuidance, NegativeGuidanceTarget


@dataclass(frozen=True)
class Normalised(NegativeGuidance):
    """eta: three, as published. Without the second step such a target is brighter and harder than any
    prediction.
    """

    eta: float = 3.0

    def start(self, context: Context) -> NormalisedTarget:
        return NormalisedTarget(self, context)


class NormalisedTarget(NegativeGuidanceTarget):
    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """The negative guidance, with the mean and standard deviation of eps0("") in every sample;
        [n, 4, h, w].
        """
        pushed = super().__call__(states, cond, rng, generator)["erase"]
        assert isinstance(pushed, Rows)
        return {"erase": dataclasses.replace(pushed, target=like(pushed.target, states.eps_empty))}


def like(tensor: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """`tensor` [n, ...] with the mean and standard deviation that each sample of `usual` has."""
    dims = tuple(range(1, tensor.ndim))
    spread, mean = torch.std_mean(tensor, dims, keepdim=True)
    own_spread, own_mean = torch.std_mean(usual, dims, keepdim=True)
    return (tensor - mean) / spread.clamp_min(1e-6) * own_spread + own_mean
