"""SAGE's local retention: for other prompts the predicted noise stays what it was (arXiv 2506.09363).

    L_local = | eps(z_t, T(r)) - eps0(z_t, T0(r)) |^2
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ..latents import Rows


@dataclass(frozen=True)
class Noise:
    """weight: lambda_l; batch: samples a step."""

    weight: float = 1.0
    batch: int = 4

    def start(self, context) -> NoiseTerm:
        return NoiseTerm(self, context)


@dataclass
class NoiseTerm:
    config: Noise
    context: object

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """Rows for the step's UNet batch: retained states of the bank, their prompts encoded as things stand."""
        bank = self.context.bank
        index = torch.tensor([rng.randrange(len(bank.retain_t)) for _ in range(self.config.batch)])
        cond = self.context.model.encode([bank.retain_prompts[i] for i in bank.retain_prompt[index].tolist()])
        index = index.to(bank.retain_z.device)
        return Rows(bank.retain_z[index], bank.retain_t[index], cond, bank.retain_eps[index], self.config.weight)
