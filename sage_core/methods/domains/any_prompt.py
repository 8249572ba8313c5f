"""Whatever is asked: at the states of the concept's trajectories, prompts that do not name it.

Whoever wants the concept back finds words or embeddings that still draw it (concept inversion, Pham et al.,
arXiv 2308.01508), and nobody can list them all. But the picture on its way there looks like the concept,
whatever was asked. So a part of the samples puts other prompts and random embeddings at the concept's states:
what is erased then depends on what is being drawn. The guard (guard.py) does the same in the sampler; here it
is in the weights. Not from a paper; measured in docs/lab/attacks.md.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ...prompts.compose import compose_vectors, encode_vectors, random_vectors
from ..base import Domain, DomainPart
from ..context import Context


@dataclass(frozen=True)
class AnyPrompt(Domain):
    """unasked: the share of a step's samples whose prompt does not name the concept; random: the share of
    these that are random embeddings in the name's place, and not prompts of retained words; vectors: of them.
    """

    unasked: float = 0.25
    random: float = 0.5
    vectors: int = 3

    def start(self, context: Context) -> AnyPromptPart:
        return AnyPromptPart(self, context)

    def in_plain_prompts(self) -> AnyPrompt:
        """The same without embeddings of its own, for text encoders that are not open."""
        return dataclasses.replace(self, random=0.0)


@dataclass
class AnyPromptPart(DomainPart):
    config: AnyPrompt
    context: Context

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """A row for each scene: prompts that do not name the concept first, its names in templates behind
        them.
        """
        count = self.plain_rows(len(scenes)).start
        rows = [self.unasked(rng, generator, scene) for scene in scenes[:count]]
        plain = [self.context.erased_prompt(rng, scene) for scene in scenes[count:]]
        return Conditioning.cat([*rows, self.context.model.encode(plain)])

    def plain_rows(self, samples: int) -> slice:
        """Which of so many samples name the concept: the last ones, at least one."""
        return slice(min(samples - 1, round(self.config.unasked * samples)), None)

    def unasked(self, rng: random.Random, generator: torch.Generator, scene: str | None) -> Conditioning:
        """A prompt that does not name the concept; one row."""
        if rng.random() >= self.config.random:
            return self.context.model.encode([self.other(rng)])
        text, name = self.context.model.text, self.context.any_name(rng)
        drawn = random_vectors(text, self.config.vectors, generator)
        template = self.context.template(rng, scene, name)
        return encode_vectors(text, compose_vectors(text, self.config.vectors, template, name), drawn)

    def other(self, rng: random.Random) -> str:
        """A prompt of a retained word, half of the time one near the concept: attacks begin there."""
        if rng.random() < 0.5 and (near := self.context.nearest()):
            return self.context.shown(rng, rng.choice(near), None)
        return self.context.retained_prompt(rng)
