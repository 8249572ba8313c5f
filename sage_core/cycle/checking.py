"""The checks of one run: whether any strength of the LoRA is enough, and the one that it is given."""

from __future__ import annotations

from ..domain.check import Checked, bound_of, checked_names, dose, left_at, left_on_own_way, states
from ..domain.pull import Stops
from ..methods.context import Context
from ..methods.recipe import Recipe
from ..progress import Event, OnEvent


class Checks:
    """Checks an adapter as it stands; nothing that is trained depends on it but when training ends."""

    def __init__(self, context: Context, recipe: Recipe, on_event: OnEvent):
        self.context, self.concept, self.on_event = context, recipe.concept, on_event
        self.names = checked_names(recipe.kind, recipe.names)
        self.stops: Stops | None = None
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
        checked = self._checked(found.strength, {name: left[name] for name in self.names})
        self.on_event(Event("check", 1, 1, checked=checked, concept=self.concept))
        return checked

    def _look(self, step: int, total: int) -> Checked:
        if self.latest is None or self.latest[0] != step:
            self.on_event(Event("check", step, total))
            found = self._checked(*dose(self._left, self.names, self.bound.aim))
            self.latest = step, found
        return self.latest[1]

    def _checked(self, strength: float, left: dict[str, float]) -> Checked:
        seen = tuple(name for name, share in left.items() if share > self.bound.seen)
        return Checked(left, strength, seen, self.passes)

    def _left(self, strength: float, names: list[str]) -> dict[str, float]:
        adapter, model = self.context.adapter, self.context.model
        before, own = model.cost.passes, adapter.strength
        adapter.strength = strength
        try:
            if self.context.style:
                return left_on_own_way(model, self.context, names, adapter.off)
            if self.stops is None:
                with adapter.off():
                    self.stops = states(model, self.context)
            return left_at(model, self.context, names, self.stops)
        finally:
            adapter.strength = own
            self.passes += model.cost.passes - before
