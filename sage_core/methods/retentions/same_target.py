"""AGE's retention: the word that the concept is drawn as stays itself (arXiv 2501.18950, second term of the
equation).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ..states import Rows


@dataclass(frozen=True)
class SameTarget:
    """Nothing to set: weight and word are the adaptive target's."""

    def start(self, context) -> SameTargetTerm:
        return SameTargetTerm(self, context)


@dataclass
class SameTargetTerm:
    config: SameTarget
    context: object

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows:
        """The rows that the adaptive target made in this step."""
        return self.context.target.kept
