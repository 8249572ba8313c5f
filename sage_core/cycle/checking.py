"""The checks of one run: whether any strength of the LoRA is enough, and the one that it is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..diffusion.model import DiffusionModel
from ..domain.check import (
    MORE_SCENES,
    Checked,
    Scenes,
    bound_of,
    checked_names,
    checked_scenes,
    dose,
    drawn_in,
    left_at,
    left_in_scenes,
    left_on_own_way,
    states,
)
from ..domain.pull import Stops
from ..methods.context import Context
from ..methods.recipe import Recipe
from ..progress import Event, OnEvent


class Checks:
    """Checks an adapter as it stands; nothing that is trained depends on it but when training ends."""

    def __init__(self, context: Context, recipe: Recipe, on_event: OnEvent):
        self.context, self.concept, self.on_event = context, recipe.concept, on_event
        self.names = checked_names(recipe.kind, recipe.names)
        self.places = checked_scenes(context, context.model.family.flow)
        self.failing: list[str] = []  # scenes in which the latest look saw most of the concept
        self.stops: Stops | None = None
        self.scenes: Scenes | None = None
        self.bound, self.passes = bound_of(context), 0
        self.latest: tuple[int, Checked] | None = None  # after so many steps

    def enough(self, step: int, total: int) -> bool:
        """Whether, after so many steps, a strength takes the concept out of all its names."""
        return not self._look(step, total).seen

    def finish(self, step: int) -> Checked:
        """Give the adapter the strength that was found, in its weights, and check all names once more."""
        found = self._look(step, step)
        self.context.adapter.scale(found.strength)
        others = [name for name in self.names if name not in found.left]
        left = found.left | (self._left(1.0, others) if others else {})
        checked = self._checked(found.strength, {name: left[name] for name in self.names}, found.scenes)
        self.on_event(Event("check", 1, 1, checked=checked, concept=self.concept))
        return checked

    def _look(self, step: int, total: int) -> Checked:
        if self.latest is None or self.latest[0] != step:
            self.on_event(Event("check", step, total))
            strength, left = dose(self._left, self.names, self.bound.aim)
            scenes = self._left_in_scenes(strength)
            drawn = [scene for scene, share in scenes.items() if share > self.bound.in_scene]
            self.failing = sorted(drawn, key=lambda scene: -scenes[scene])[:MORE_SCENES]
            name = self.context.names[0]
            shares = {self.context.plain(name, scene): share for scene, share in scenes.items()}
            self.latest = step, self._checked(strength, left, shares)
        return self.latest[1]

    def _checked(self, strength: float, left: dict[str, float], scenes: dict[str, float]) -> Checked:
        seen = [name for name, share in left.items() if share > self.bound.seen]
        seen += [prompt for prompt, share in scenes.items() if share > self.bound.in_scene]
        return Checked(left, strength, tuple(seen), self.passes, scenes)

    def _left(self, strength: float, names: list[str]) -> dict[str, float]:
        with self._at(strength) as (model, context):
            if context.style:
                return left_on_own_way(model, context, names, context.adapter.off)
            return left_at(model, context, names, self._stops())

    def _left_in_scenes(self, strength: float) -> dict[str, float]:
        if not self.places:
            return {}
        with self._at(strength) as (model, context):
            stops = self._stops()
            if self.scenes is None:
                with context.adapter.off():
                    self.scenes = drawn_in(model, context, self.places, stops)
            return left_in_scenes(model, context, self.scenes, stops)

    def _stops(self) -> Stops:
        if self.stops is None:
            with self.context.adapter.off():
                self.stops = states(self.context.model, self.context)
        return self.stops

    @contextlib.contextmanager
    def _at(self, strength: float) -> Iterator[tuple[DiffusionModel, Context]]:
        """Inside, the adapter has that strength; the passes are counted."""
        adapter, model = self.context.adapter, self.context.model
        before, own = model.cost.passes, adapter.strength
        adapter.strength = strength
        try:
            yield model, self.context
        finally:
            adapter.strength = own
            self.passes += model.cost.passes - before
