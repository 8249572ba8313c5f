"""Receler's attack (Huang et al., arXiv 2311.17717): soft tokens behind the concept in the encoder's OUTPUT,
kept across cycles.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch

from ...diffusion.cost import ROW
from ...diffusion.text import Conditioning
from ..base import Domain, DomainPart
from ..context import Context
from ..search.adam import load_adam
from ..search.through_unet import search


@dataclass(frozen=True)
class SoftTokens(Domain):
    """tokens: how many; steps: of the search in every cycle; rate and decay: of its Adam (the authors' 0.1
    and 0.1).
    """

    tokens: int = 16
    steps: int = 50
    rate: float = 0.1
    decay: float = 0.1

    def passes(self, walk: int, batch: int) -> int:
        return self.steps * ROW + walk

    def start(self, context: Context) -> SoftTokensSearch:
        return SoftTokensSearch(self, context)


@dataclass
class SoftTokensSearch(DomainPart):
    config: SoftTokens
    context: Context
    free: torch.Tensor | None = None
    optimizer: torch.optim.Optimizer | None = field(default=None)

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """The concept's prompts, one a scene, with the soft tokens behind them."""
        name, text = rng.choice(self.context.names), self.context.model.text
        prompts = [self.context.plain(name, scene) for scene in scenes]
        free, optimizer = self.prepared(self.context.frozen("").hidden.shape[-1], generator)

        def conditioning(rows: slice = slice(0, 1)) -> Conditioning:
            tokens = text.tokenize(prompts[rows])
            cond = text.encode(tokens)
            position = torch.arange(cond.hidden.shape[1], device=tokens.end.device)
            place = position[None] - tokens.end[:, None]  # 0 at the end token
            soft = free[place.clamp(0, len(free) - 1)].to(cond.hidden)
            inside = (place >= 0) & (place < len(free)) & (position < text.length)
            return Conditioning(torch.where(inside[..., None], soft, cond.hidden), cond.pooled)

        search(self.context, rng, free, conditioning, optimizer, self.config.steps, same_state=True)
        return conditioning(slice(None))

    def prepared(self, width: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        """The soft tokens [tokens, width] and their Adam, made at the first call."""
        if self.free is None or self.optimizer is None:
            free = torch.rand(self.config.tokens, width, generator=generator)
            self.free = free.to(self.context.model.device).requires_grad_(True)
            self.optimizer = torch.optim.Adam(
                [self.free], lr=self.config.rate, weight_decay=self.config.decay
            )
        return self.free, self.optimizer

    def tensors(self) -> dict[str, torch.Tensor]:
        if self.free is None or self.optimizer is None:
            return {}
        return {"free": self.free.detach()} | dict(self.optimizer.state[self.free].items())

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        free, optimizer = self.prepared(tensors["free"].shape[1], torch.Generator())
        with torch.no_grad():
            free.copy_(tensors["free"])
        load_adam(optimizer, free, tensors)
