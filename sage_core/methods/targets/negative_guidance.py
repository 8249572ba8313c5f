"""ESD's target (Gandikota et al., arXiv 2303.07345, eq. 7), which SAGE, EAP, AdvUnlearn and Receler share."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..states import Rows, States


@dataclass(frozen=True)
class NegativeGuidance:
    """eta: how far beyond the empty prompt, away from the concept; 0 is the empty prompt's own prediction.
    clean: compare predicted clean latents instead of noise, so that noisy steps weigh more (EAP).
    """

    eta: float = 1.0
    clean: bool = False

    def start(self, context) -> NegativeGuidanceTarget:
        return NegativeGuidanceTarget(self, context)


@dataclass
class NegativeGuidanceTarget:
    config: NegativeGuidance
    context: object

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Rows:
        """eps0("") - eta (eps0(c) - eps0("")), all [n, 4, h, w]."""
        target = states.eps_empty - self.config.eta * (states.eps_concept - states.eps_empty)
        return Rows(
            states.z, states.t, cond, target, self.context.z0_weight(states.t) if self.config.clean else 1.0
        )
