"""ESD's target (Gandikota et al., arXiv 2303.07345, eq. 7), which SAGE, EAP, AdvUnlearn and Receler share."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import Target, TargetPart, Terms
from ..context import Context
from ..states import Rows, States


@dataclass(frozen=True)
class NegativeGuidance(Target):
    """eta: how far beyond the empty prompt, away from the concept; 0 is the empty prompt's own prediction.
    clean: compare predicted clean latents instead of noise, so that noisy steps weigh more (EAP).
    """

    eta: float = 1.0
    clean: bool = False

    def own_eta(self) -> float:
        return self.eta

    def with_eta(self, eta: float) -> NegativeGuidance:
        return dataclasses.replace(self, eta=eta)

    def start(self, context: Context) -> NegativeGuidanceTarget:
        return NegativeGuidanceTarget(self, context)


@dataclass
class NegativeGuidanceTarget(TargetPart):
    config: NegativeGuidance
    context: Context

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """eps0("") - eta (eps0(c) - eps0("")), all [n, 4, h, w]."""
        target = states.eps_empty - self.config.eta * (states.eps_concept - states.eps_empty)
        weight = self.context.z0_weight(states.t) if self.config.clean else self.context.unit(states.t)
        return {"erase": Rows(states.z, states.t, cond, target, weight)}
