"""The refit of a run: its adapter, the concept's prompts and those of the words that stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..lora.refit import Moments, heard, moments, refitted, source
from ..methods.closed_form.config import ClosedForm
from ..methods.closed_form.rows import in_styles, kept_prompts, unstyled
from ..methods.context import Context
from ..progress import Event, OnEvent
from ..prompts.templates import put

KEPT = ClosedForm(templates=2, everywhere=True)  # the prompts of each word
TEMPLATES = 2  # of each name
MOST_THINGS = 40  # that a style is shown on


def own_prompts(context: Context) -> list[str]:
    """Prompts of the concept under all its names: alone and in styles, or, of a style, on things."""
    if context.style:
        things = context.things[:: max(1, len(context.things) // MOST_THINGS)][:MOST_THINGS]
        return [context.plain(name, thing) for name in context.names for thing in things]
    prompts = []
    for name in context.names:
        shown = [*unstyled(context, name, TEMPLATES), *in_styles(context, name)]
        prompts += [put(template, name) for template in shown]
    return prompts


class Refit:
    """Refits an adapter as it stands. What is kept is read once."""

    def __init__(self, context: Context, weight: float, on_event: OnEvent):
        self.context, self.weight, self.on_event = context, weight, on_event
        self.kept: Moments | None = None

    @torch.no_grad()
    def apply(self) -> None:
        """Refit the adapter's layers that read text."""
        context, adapter = self.context, self.context.adapter
        if self.kept is None:
            prompts = kept_prompts(context, KEPT)
            with adapter.off():
                self.kept = moments(
                    context.model,
                    adapter.layers,
                    prompts,
                    lambda done: self.on_event(Event("refit", done, len(prompts))),
                )
        own = moments(context.model, adapter.layers, own_prompts(context))
        for name, down in adapter.down.items():
            key = source(name)
            if key is not None:
                listens = [heard(down, own[key])]
                fitted = refitted(listens, own[key], self.kept[key], self.weight, down.shape[1])
                down.copy_(fitted[0])

    @contextlib.contextmanager
    def tried(self) -> Iterator[None]:
        """Inside, the adapter is refitted; behind it, as it was."""
        before = {name: down.detach().clone() for name, down in self.context.adapter.down.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, down in self.context.adapter.down.items():
                    down.copy_(before[name])
