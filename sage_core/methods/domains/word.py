"""The fixed word: the concept in plain templates, nothing searched (ESD, arXiv 2303.07345, and SAGE's
ablation).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning
from ...prompts.templates import put
from ..base import Domain, DomainPart
from ..context import Context


@dataclass(frozen=True)
class Word(Domain):
    """templates: vary the words around the concept; without it the bare name is erased."""

    templates: bool = True

    def start(self, context: Context) -> WordDomain:
        return WordDomain(self, context)


@dataclass
class WordDomain(DomainPart):
    config: Word
    context: Context

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """Conditionings of the concept's names, one a scene."""
        return self.context.model.encode(
            [self.prompt(rng, rng.choice(self.context.names), scene) for scene in scenes]
        )

    def prompt(self, rng: random.Random, name: str, scene: str | None) -> str:
        if not self.config.templates:
            return self.context.plain(name, scene)
        return put(self.context.template(rng, scene, name), name)
