"""The three choices of a method as Protocols: what is erased, what it becomes, what stays.

Each choice is a frozen config that `start(context)` turns into a running part. A config says what it costs,
so that time and memory are predicted before anything runs. Everything that only some strategies need has a
default here: inherit from the Protocol and override what differs.
"""

from __future__ import annotations

import random
from typing import Protocol

import torch

from ..diffusion.text import Conditioning
from .context import Context
from .states import Rows, States

# Samples for the UNet, or a loss in text space, by the name under which the loss is reported.
Terms = dict[str, Rows | torch.Tensor]


class Part(Protocol):
    """A running strategy. One that learns something saves it, so that a killed run can resume."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a saved run needs to resume; empty where nothing is learnt."""
        return {}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` returned. Called only where it returned something."""
        return None


class DomainPart(Part, Protocol):
    """A domain in a run."""

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """Conditionings that still mean the concept, one for each scene (see Context)."""
        ...

    def learn(self) -> None:
        """Called after the backward pass of every step."""
        return None

    def plain_rows(self, samples: int) -> slice:
        """Which of `samples` conditionings are the concept's own names; the residual is measured on these."""
        return slice(None)


class TargetPart(Part, Protocol):
    """A target in a run."""

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """What the model should predict for `cond`, under the name "erase"; further terms may stand beside
        it.

        states: the noisy latents of the step; without any for a method in text space.
        """
        ...


class RetentionPart(Part, Protocol):
    """A retention term in a run."""

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Rows | torch.Tensor:
        """Samples for the step's one UNet batch, or a loss in text space."""
        ...


class Choice(Protocol):
    """What all three configs say about their cost."""

    def passes(self, walk: int, batch: int) -> int:
        """UNet passes a step beyond the erased samples, a backward counted as two.

        walk: passes of drawing a noisy latent where none is banked. batch: erased samples a step.
        """
        return 0

    def rows(self, batch: int) -> int:
        """Samples that it adds to the UNet batch of a step of `batch` erased samples."""
        return 0

    def prompts(self) -> int:
        """Prompts a step that go through the text encoder alone."""
        return 0


class Domain(Choice, Protocol):
    """What is erased."""

    def start(self, context: Context) -> DomainPart: ...


class Target(Choice, Protocol):
    """What the concept becomes."""

    def start(self, context: Context) -> TargetPart: ...

    def own_eta(self) -> float | None:
        """Its strength of negative guidance; None where it has none."""
        return None

    def with_eta(self, eta: float) -> Target:
        """The same target at another strength; itself where it has none."""
        return self


class Retention(Choice, Protocol):
    """What stays."""

    def start(self, context: Context) -> RetentionPart: ...
