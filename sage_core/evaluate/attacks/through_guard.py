"""Concept inversion through the guard: an attacker who knows it, and optimises with it in the way.

The guarded prediction of a step is made to be what the untouched model's guidance for the concept is:

    min_v  E | steer(e(v)) - e0(concept) |^2 / g^2,    e(v) = eps(z, "") + g (eps(z, v) - eps(z, ""))

with a sigmoid in place of the guard's threshold (sage_core/guard.py), since a step has no gradient. The
attacker knows that a mean over the steps is watched too, and stays under its threshold, the lower one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.checkpointing import untouched
from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...errors import SageError
from ...guard import LASTING, Guard, steered
from ...spec import ErasureSpec
from .base import Noised
from .inversion import CONCEPT, ConceptInversion

SLOPE = 20.0


@dataclass(frozen=True)
class ThroughGuard(ConceptInversion):
    """guidance: as pictures are drawn with."""

    name: str = "through-guard"
    steps: int = 150
    batch: int = 4
    vectors: int = 3
    starts: tuple[str, ...] = ("object", CONCEPT)
    guidance: float = 5.0
    title: ClassVar[str] = "concept inversion through the guard"
    paper: ClassVar[str] = "ours, after Pham et al., arXiv 2308.01508"

    def loss(
        self, model: DiffusionModel, spec: ErasureSpec, states: Noised, cond: Conditioning
    ) -> torch.Tensor:
        guard = model.guard
        if not isinstance(guard, Guard):
            raise SageError("The attack through the guard needs a guard; add --guard.")
        z, t, count = states.z, states.t, len(states.z)
        with torch.no_grad():
            empty = model.predict_noise(z, t, Conditioning.cat([model.encode([""])] * count))
            with untouched():
                rows = [row for row in range(len(guard.concepts) + 1) for _ in range(count)]
                many = z.repeat(len(guard.concepts) + 1, 1, 1, 1), t.repeat(len(guard.concepts) + 1)
                base, *towards = model.predict_noise(*many, guard.conds[rows]).split(count)
        pulls = [toward - base for toward in towards]
        wanted = base + self.guidance * pulls[guard.concepts.index(spec.concept)]
        asked = model.predict_noise(z, t, Conditioning.cat([cond] * count))
        guided = empty + self.guidance * (asked - empty)
        threshold, push = guard.settings

        def gate(number: int, cosine: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(SLOPE * (cosine - LASTING * threshold))

        passed = steered(guided, base, pulls, gate, push)
        return (passed - wanted).square().mean() / self.guidance**2
