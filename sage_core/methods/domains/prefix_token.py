"""AdvUnlearn's attack (Zhang et al., arXiv 2405.15234): one free token before the concept's name, found
through the UNet.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.cost import ROW
from ...diffusion.text import Conditioning
from ..base import Domain, DomainPart
from ..context import Context
from ..search.through_unet import search


@dataclass(frozen=True)
class PrefixToken(Domain):
    """steps: of the search, in every cycle; rate: of its Adam, in units of the embedding table's root mean
    square (the paper's 1e-3 on CLIP-L's table, whose root mean square is about 0.015).
    """

    steps: int = 30
    rate: float = 0.07

    def passes(self, walk: int, batch: int) -> int:
        return self.steps * (ROW + walk)

    def start(self, context: Context) -> PrefixTokenSearch:
        return PrefixTokenSearch(self, context)


@dataclass
class PrefixTokenSearch(DomainPart):
    config: PrefixToken
    context: Context

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """The concept's prompts behind the token found in this cycle, one a scene.

        It starts from a random word of the table.
        """
        text, name = self.context.model.text, rng.choice(self.context.names)
        prompts = text.tokenize(["a " + self.context.plain(name, scene) for scene in scenes])
        base = text.embed(prompts)
        table: torch.Tensor = text.encoders[0].get_input_embeddings().weight  # type: ignore[operator]
        free = table[rng.randrange(len(table))].detach().float().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([free], lr=self.config.rate * text.scales[0])

        def conditioning(rows: slice = slice(0, 1)) -> Conditioning:
            own = [b[rows] for b in base]
            first = torch.cat(
                [own[0][:, :1], free.view(1, 1, -1).expand(len(own[0]), -1, -1), own[0][:, 2:]], dim=1
            )
            return text.encode(prompts.rows(rows), [first, *own[1:]])

        search(self.context, rng, free, conditioning, optimizer, self.config.steps, same_state=False)
        free = free.detach()
        return conditioning(slice(None))
