"""A self-check at no cost: embeddings in the name's place that learn, by the very backward pass that erases,
to undo the erasing.

Whoever wants the concept back learns words for it (concept inversion, Pham et al., arXiv 2308.01508), so the
check does the same. It needs no pass of its own: the erasing loss is differentiated anyway, and one backward
gives the adapter's gradient, which goes down, and the embeddings', which goes up (free adversarial training,
Shafahi et al., arXiv 1904.12843).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch

from ...diffusion.text import Conditioning
from ...prompts.compose import compose_vectors, encode_vectors, own_vectors
from ..base import Domain, DomainPart
from ..context import Context
from ..search.adam import load_adam


@dataclass(frozen=True)
class NameInversion(Domain):
    """vectors: free embeddings in the name's place; pool: names that are learnt at once; stride: of their
    Adam, in units of the embedding table's root mean square; plain: the share of the samples that are the
    concept's names in plain templates; beside: the share of new names that start from a word like the concept
    instead of from the concept's own; fresh: how often one starts anew; random: move as far, but anywhere
    (the ablation).
    """

    vectors: int = 2
    pool: int = 4
    stride: float = 0.1
    plain: float = 0.5
    beside: float = 0.3
    fresh: float = 0.1
    random: bool = False

    def start(self, context: Context) -> NameInversionSearch:
        return NameInversionSearch(self, context)


@dataclass
class Learnt:
    """A learnt name:

    `free` [vectors, width], a tensor an encoder; `name`: which of the concept's names it stands for.
    """

    name: str
    free: list[torch.Tensor]
    optimizer: torch.optim.Optimizer


@dataclass
class NameInversionSearch(DomainPart):
    config: NameInversion
    context: Context
    learnt: list[Learnt] = field(default_factory=list)
    used: list[Learnt] = field(default_factory=list)
    generator: torch.Generator | None = None

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """Prompts of the concept, one a scene: learnt names first, the concept's own in plain templates
        behind them.
        """
        count = self.plain_rows(len(scenes)).start
        self.generator = generator
        self.renew(rng)
        self.used = rng.sample(self.learnt, min(count, len(self.learnt)))
        for learnt in self.used:
            learnt.optimizer.zero_grad()
        rows = [
            self.encode(self.used[i % len(self.used)], rng, scene) for i, scene in enumerate(scenes[:count])
        ]
        plain = [self.context.erased_prompt(rng, scene) for scene in scenes[count:]]
        return Conditioning.cat([*rows, self.context.model.encode(plain)] if plain else rows)

    def plain_rows(self, samples: int) -> slice:
        """Which of so many samples are the concept's own names: the last ones, and at least one is a learnt
        name.
        """
        return slice(samples - min(samples - 1, round(self.config.plain * samples)), None)

    def learn(self) -> None:
        """After the step's backward: the names that were used move up the erasing loss."""
        for learnt in self.used:
            if self.config.random:
                for free in learnt.free:
                    free.grad = torch.randn(free.shape, generator=self.generator).to(free)
            learnt.optimizer.step()
        self.used = []

    def renew(self, rng: random.Random) -> None:
        while len(self.learnt) < self.config.pool:
            self.learnt.append(self.new(rng))
        if rng.random() < self.config.fresh:
            self.learnt[rng.randrange(len(self.learnt))] = self.new(rng)

    def new(self, rng: random.Random) -> Learnt:
        """A name that starts as one of the concept's own, or as a word that is like it."""
        name, beside = (
            self.context.any_name(rng),
            (self.context.other_styles if self.context.style else self.context.nearest()),
        )
        start = rng.choice(beside) if beside and rng.random() < self.config.beside else name
        return self.made(name, own_vectors(self.context.model.text, start, self.config.vectors))

    def made(self, name: str, start: list[torch.Tensor]) -> Learnt:
        free = [e.clone().requires_grad_(True) for e in start]
        groups = [
            {"params": [f], "lr": self.config.stride * scale}
            for f, scale in zip(free, self.context.model.text.scales)
        ]
        return Learnt(name, free, torch.optim.Adam(groups, betas=(0.8, 0.95), maximize=True))

    def encode(self, learnt: Learnt, rng: random.Random, scene: str | None) -> Conditioning:
        """T of a random template with the learnt name in it, one row."""
        text = self.context.model.text
        return encode_vectors(
            text,
            compose_vectors(
                text, self.config.vectors, self.context.template(rng, scene, learnt.name), learnt.name
            ),
            learnt.free,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        out = {}
        for i, learnt in enumerate(self.learnt):
            out[f"{i}.name"] = torch.tensor(self.context.names.index(learnt.name))
            for j, free in enumerate(learnt.free):
                out[f"{i}.{j}.free"] = free.detach()
                out |= {f"{i}.{j}.{k}": v for k, v in learnt.optimizer.state[free].items()}
        return out

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        count = len(self.context.model.text.encoders)
        self.learnt = []
        for i in range(sum(k.endswith(".name") for k in tensors)):
            parts = [
                {k.split(".")[2]: v for k, v in tensors.items() if k.startswith(f"{i}.{j}.")}
                for j in range(count)
            ]
            learnt = self.made(self.context.names[int(tensors[f"{i}.name"])], [p["free"] for p in parts])
            for free, part in zip(learnt.free, parts):
                load_adam(learnt.optimizer, free, part)
            self.learnt.append(learnt)
