"""What a run starts from: the context that its parts see, and the watch over it; a closed form needs no more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from ..diffusion.model import DiffusionModel
from ..lora.adapter import Adapter
from ..methods.closed_form.edit import solve
from ..methods.context import Context
from ..methods.recipe import Recipe
from ..progress import Event
from ..prompts.words import other_styles, retained_words
from .result import Erasure
from .watch import Watch

OnEvent = Callable[[Event], None]


def build_context(model: DiffusionModel, recipe: Recipe, adapter: Adapter, styled: float = 0.0) -> Context:
    """What the parts of a method see. `styled`: see prompts.writer.Writer."""
    with adapter.off():
        retained = retained_words(model, recipe.names, recipe.retain)
    return Context(
        names=recipe.names,
        retained=retained,
        kind=recipe.kind,
        other_styles=other_styles(model, recipe.names),
        styled=styled,
        styles=model.knowledge.styles,
        model=model,
        adapter=adapter,
    )


def run_closed_form(
    model: DiffusionModel, recipe: Recipe, adapter: Adapter, on_event: OnEvent, looks: bool = False
) -> Erasure:
    """A closed form: no steps, no UNet pass."""
    assert recipe.method.closed is not None
    start, before = time.monotonic(), dataclasses.replace(model.cost)
    context = build_context(model, recipe, adapter)
    watch = watch_over(context, on_event) if looks else None
    if watch is not None:
        watch.begin()
    losses = solve(recipe.method.closed, context, recipe.steps)
    if watch is not None:
        watch.look(len(losses), len(losses))
    left = None if watch is None else watch.curve[-1][1]
    on_event(Event("done", len(losses), len(losses), losses[-1], 0.0, left=left))
    done = recipe.with_rank(max(len(down) for down in adapter.down.values()))
    # The edit is exact, so the file is not rounded.
    seconds = time.monotonic() - start
    erasure = Erasure(done, adapter, losses, model.cost.since(before), seconds, dtype=torch.float32)
    return noted(erasure, watch)


def watch_over(context: Context, on_event: OnEvent) -> Watch:
    """A watch whose looks are events."""

    def report(step: int, total: int, share: float, latents: torch.Tensor) -> None:
        on_event(Event("look", step, total, left=share, latents=latents))

    return Watch(context, report)


def noted(erasure: Erasure, watch: Watch | None) -> Erasure:
    """With what the watch saw."""
    if watch is not None:
        erasure.left, erasure.looked = watch.curve, watch.cost
    return erasure
