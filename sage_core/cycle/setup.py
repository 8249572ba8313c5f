"""What a run starts from: the context that its parts see, and the watch. A closed form needs no more."""

from __future__ import annotations

import dataclasses
import time

import torch

from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..domain.found import Domain
from ..domain.search import search
from ..lora.adapter import Adapter
from ..lora.surfaces import surface_layers
from ..methods.closed_form.edit import solve
from ..methods.context import Context
from ..methods.plain_prompts import in_plain_prompts
from ..methods.recipe import Recipe
from ..progress import Event, OnEvent
from ..prompts.words import other_styles, retained_words
from ..spec import ErasureSpec
from .checking import Checks
from .result import Erasure
from .watch import Watch


def decided(model: DiffusionModel, spec: ErasureSpec | Recipe) -> Recipe:
    """The recipe of an erasure from this model. Raises SageError where it is none of this model's."""
    recipe = spec.on(model.family) if isinstance(spec, Recipe) else spec.recipe_for(model)
    model.knowledge.check([recipe.concept, *recipe.synonyms])
    return recipe if model.text.open else in_plain_prompts(recipe)


def trained_layers(model: DiffusionModel, recipe: Recipe) -> dict[str, torch.nn.Linear]:
    """The layers of the recipe's surface that its method changes."""
    method, layers = recipe.method, {}
    for name, layer in surface_layers(model, recipe.surface).items():
        edited = method.closed is None or name.endswith(method.closed.endings(model.family))
        if edited and any(part in name for part in method.layers):
            layers[name] = layer
    return layers


def build_context(model: DiffusionModel, recipe: Recipe, adapter: Adapter, styled: float = 0.0) -> Context:
    """What the parts of a method see. `styled`: see prompts.writer.Writer."""
    domain = recipe.domain or Domain()
    close = [word.text for word in domain.close]
    left_alone = {word.text for word in domain.between} - set(recipe.kept)
    with adapter.off():
        retained = retained_words(model, recipe.names, (*recipe.kept, *close))
    retained = [word for word in retained if word not in left_alone] or retained
    return Context(
        names=recipe.names,
        given=recipe.given,
        close=close,
        retained=retained,
        kind=recipe.kind,
        other_styles=other_styles(model, recipe.names),
        styled=styled,
        styles=model.knowledge.styles,
        becomes=recipe.replacement,
        model=model,
        adapter=adapter,
    )


def searched(model: DiffusionModel, recipe: Recipe, adapter: Adapter, on_event: OnEvent) -> Recipe:
    """The recipe with the words that mean the concept, searched where that is wanted and not known."""
    if not recipe.search or recipe.domain is not None:
        return recipe

    if not model.text.open:  # its words and their states are the host's: nobody can be asked which to try
        return recipe.with_domain(Domain())

    def report(done: int, total: int) -> None:
        on_event(Event("domain", done, total))

    with adapter.off():
        domain = search(model, recipe.given, recipe.kind, recipe.exclude, recipe.kept, report)
    on_event(Event("domain", 1, 1, domain=domain, concept=recipe.concept))
    return recipe.with_domain(domain)


def run_closed_form(
    model: DiffusionModel,
    recipe: Recipe,
    adapter: Adapter,
    on_event: OnEvent,
    looks: bool = False,
    before: Cost | None = None,
) -> Erasure:
    """A closed form: no steps, no UNet pass."""
    assert recipe.method.closed is not None
    start, before = time.monotonic(), before or dataclasses.replace(model.cost)
    context = build_context(model, recipe, adapter)
    watch = watch_over(context, on_event) if looks else None
    if watch is not None:
        watch.begin()
    checks = Checks(context, recipe, on_event) if recipe.check else None
    losses = solve(recipe.method.closed, context, recipe.steps)
    checked = None if checks is None else checks.finish(len(losses))
    if watch is not None:
        watch.look(len(losses), len(losses))
    left = None if watch is None else watch.curve[-1][1]
    on_event(Event("done", len(losses), len(losses), losses[-1], 0.0, left=left))
    done = recipe.with_rank(max(len(down) for down in adapter.down.values()))
    # The edit is exact, so the file is not rounded.
    seconds = time.monotonic() - start
    cost = model.cost.since(before)
    erasure = Erasure(done, adapter, losses, cost, seconds, dtype=torch.float32, checked=checked)
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
