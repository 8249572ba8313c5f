"""The prompts of the coming steps, encoded before the first of them.

A host without room for its text encoder and its network together loads one in the place of the other for
every prompt that it has not seen. At every step, that would take longer than the step.
"""

from __future__ import annotations

import random
from typing import Protocol

import torch

from ..diffusion.model import DiffusionModel
from ..methods.base import DomainPart, RetentionPart
from ..methods.recipe import Recipe
from ..progress import Event, OnEvent
from .latents import FreshTrajectories, LatentBank


class Drawing(Protocol):
    """What of a run (run.py) decides the prompts of its next steps."""

    model: DiffusionModel
    recipe: Recipe
    source: LatentBank | FreshTrajectories
    domain: DomainPart
    retention: dict[str, RetentionPart]
    rng: random.Random
    generator: torch.Generator
    on_event: OnEvent


def encode_ahead(run: Drawing, steps: int) -> None:
    """Have a host encode what the next `steps` steps will ask for: the same draws, and nothing is trained.

    Nothing happens where the core encodes, and where every step draws trajectories of its own. Reports
    "prompts" events.
    """
    source = run.source
    if not run.model.hosted or not isinstance(source, LatentBank):
        return
    rng, generator = random.Random(), torch.Generator()
    rng.setstate(run.rng.getstate())
    generator.set_state(run.generator.get_state())
    decks = source.erase_deck, source.retain_deck
    try:
        for step in range(steps):
            scenes = source.concept(rng, run.recipe.training.erase_batch).scenes
            run.domain(rng, generator, scenes)
            for term in run.retention.values():
                term(rng, generator)
            run.on_event(Event("prompts", step + 1, steps))
    finally:
        source.erase_deck, source.retain_deck = decks
