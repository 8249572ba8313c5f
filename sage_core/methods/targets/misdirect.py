"""HiRM's target (Lee et al., arXiv 2602.19631): the LAST text states of the concept point somewhere else.

No UNet pass.

    L = | T(tau) - (T0("") + a |T0(c) - T0("")| u) |^2 / | T0(c) - T0("") |^2

u: a fixed random direction (HiRM-R). Only the encoder's first layer is trained. The paper measures lengths
otherwise, so a is ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..base import Target, TargetPart, Terms
from ..context import Context
from ..states import States


@dataclass(frozen=True)
class Misdirect(Target):
    """length: a, in units of the concept's own state."""

    length: float = 1.0

    def start(self, context: Context) -> MisdirectTarget:
        return MisdirectTarget(self, context)


@dataclass
class MisdirectTarget(TargetPart):
    config: Misdirect
    context: Context
    direction: torch.Tensor | None = None

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """The loss above, over all states behind the start token."""
        empty, own = (self.context.frozen(p).hidden[:, 1:].float() for p in ("", self.context.names[0]))
        if self.direction is None:
            away = torch.randn(empty.shape[-1], generator=generator).to(empty)
            self.direction = away / away.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        size = (own - empty).norm(dim=-1, keepdim=True)
        aim = empty + self.config.length * size * self.direction
        distance = (cond.hidden[:, 1:].float() - aim).square().mean()
        return {"erase": distance / (own - empty).square().mean().clamp_min(1e-12)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.direction is None else {"direction": self.direction}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.direction = tensors["direction"]
