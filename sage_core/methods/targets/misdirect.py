"""HiRM's target (Lee et al., arXiv 2602.19631): the encoder's LAST states of the concept point somewhere
else. No UNet pass.

    L = | T(tau) - (T0("") + a |T0(c) - T0("")| u) |^2 / | T0(c) - T0("") |^2

u: a fixed direction, random (HiRM-R) or that of another prompt, such as the concept's group (HiRM-S). Only
the encoder's first layer is trained; the paper measures lengths otherwise, so a is ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ..states import States


@dataclass(frozen=True)
class Misdirect:
    """length: a, in units of the concept's own state; towards: a prompt for HiRM-S, empty for a random
    direction.
    """

    length: float = 1.0
    towards: str = ""

    def start(self, context) -> MisdirectTarget:
        return MisdirectTarget(self, context)


@dataclass
class MisdirectTarget:
    config: Misdirect
    context: object
    direction: torch.Tensor | None = None

    def __call__(
        self, states: States | None, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> torch.Tensor:
        """The loss above, over all states behind the start token."""
        empty, own = (self.context.frozen(p).hidden[:, 1:].float() for p in ("", self.context.names[0]))
        if self.direction is None:
            self.direction = self._direction(empty, generator)
        size = (own - empty).norm(dim=-1, keepdim=True)
        aim = empty + self.config.length * size * self.direction
        return (cond.hidden[:, 1:].float() - aim).square().mean() / (own - empty).square().mean().clamp_min(
            1e-12
        )

    def _direction(self, empty: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.config.towards:
            away = self.context.frozen(self.config.towards).hidden[:, 1:].float() - empty
        else:
            away = torch.randn(empty.shape[-1], generator=generator).to(empty)
        return away / away.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a saved run needs to go on."""
        return {} if self.direction is None else {"direction": self.direction}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.direction = tensors["direction"]
