"""The fixed word: the concept in plain templates, nothing searched (ESD, arXiv 2303.07345, and SAGE's ablation)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ..diffusion.text import Conditioning
from .prompts import TEMPLATES, compose


@dataclass(frozen=True)
class Word:
    """templates: vary the words around the concept; without it the bare name is erased."""

    templates: bool = True

    def start(self, context) -> WordDomain:
        return WordDomain(self, context)


@dataclass
class WordDomain:
    config: Word
    context: object

    def __call__(self, rng: random.Random, generator: torch.Generator, count: int) -> Conditioning:
        """`count` conditionings of the concept's names."""
        text = self.context.model.text
        rows = [(rng.choice(self.context.names), rng.choice(TEMPLATES) if self.config.templates else "{}") for _ in range(count)]
        return Conditioning.cat([text.encode(compose(text, name, [template]).tokens) for name, template in rows])
