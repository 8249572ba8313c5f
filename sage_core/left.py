"""How much of the concept is left while it is erased: one number and one curve, 1 for the untouched model, 0 where it is gone.

The concept's pull is what its name adds to the predicted noise: pull = eps0(z, c) - eps0(z, ""), with what is shown beside the
concept in both prompts. What is left of it is the projection of what the name adds now:

    left = sum <eps(z, c) - eps0(z, ""), pull> / sum <pull, pull>   over the last rows

So neither an error across the pull nor a prediction beyond the empty prompt, where negative guidance aims, counts as left. It is a
ratio of sums: states near the end of a trajectory, where the concept pulls little, would drown a mean of ratios.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .latents import LatentBank, States

WATCHED = 12  # states of the bank that are looked at in turn


@dataclass
class Left:
    """`rows`: a (projection, square of the pull) for every step, None where a step has none. `window`: steps that a number is the mean of."""

    window: int
    rows: list[tuple[float, float] | None] = field(default_factory=list)

    def add(self, row: tuple[float, float] | None) -> None:
        """Note one step."""
        self.rows.append(row)

    def now(self) -> float | None:
        """The share that is left, in [0, 1]; None where no step could tell."""
        known = [row for row in self.rows[-self.window :] if row is not None]
        pull = sum(square for _, square in known)
        if pull <= 0:
            return None
        return min(1.0, max(0.0, sum(projection for projection, _ in known) / pull))

    def curve(self) -> list[float]:
        """The number before the run, 1 by definition, and after every step; empty where no step could tell."""
        points = [1.0]
        for count in range(1, len(self.rows) + 1):
            share = Left(self.window, self.rows[:count]).now()
            points.append(points[-1] if share is None else share)
        return points if any(row is not None for row in self.rows) else []


def projected(predicted: torch.Tensor, concept: torch.Tensor, empty: torch.Tensor) -> tuple[float, float] | None:
    """(<eps - eps0(""), pull>, <pull, pull>) of predictions [n, 4, h, w]; None of no rows, and where a number is not finite."""
    pull = (concept - empty).double()
    both = torch.stack([((predicted - empty).double() * pull).sum(), pull.square().sum()])
    return tuple(both.tolist()) if len(predicted) and torch.isfinite(both).all() else None


class Watch:
    """Looks at one state a step with the concept in a plain prompt, alone and in styles in turn.

    For methods whose own rows do not tell: a method that erases the bare word is at 0 there while "a drawing of a dog" still
    shows it, and a search's finds are not the concept's name. It takes one UNet pass a step without gradients, and two more the first time
    that a state is looked at; they are not counted, since they erase nothing.
    """

    def __init__(self, context):
        self.context = context
        self.known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def look(self, step: int, states: States | None) -> tuple[float, float] | None:
        """What `projected` says of the state whose turn it is: of the bank's, or, where there is none, of this step's."""
        model, source = self.context.model, self.context.source
        banked = isinstance(source, LatentBank) and len(source.erase_t) > 0
        if not banked and states is None:
            return None
        turn = step % WATCHED
        cost = (model.cost.forwards, model.cost.backwards)
        try:
            z, t, name, scene = self._banked(turn) if banked else (states.z[:1], states.t[:1], self.context.names[0], states.scenes[0])
            scene = self._scene(turn, scene)
            if turn not in self.known or not banked:
                self.known[turn] = self._frozen(z, t, name, scene)
            return projected(model.predict_noise(z, t, model.encode([self.context.plain(name, scene)])), *self.known[turn])
        finally:
            model.cost.forwards, model.cost.backwards = cost

    def _banked(self, turn: int) -> tuple[torch.Tensor, torch.Tensor, str, str | None]:
        """One of the bank's states, spread evenly over it, the name that drew it, and what is shown beside it."""
        bank, names = self.context.source, self.context.names
        i = turn * len(bank.erase_t) // WATCHED
        trajectory = int(bank.erase_scene[i])
        return bank.erase_z[i : i + 1], bank.erase_t[i : i + 1], names[trajectory % len(names)], bank.scenes[trajectory]

    def _scene(self, turn: int, scene: str | None) -> str | None:
        """Every second look at a thing that is alone puts it into another style."""
        styles = self.context.other_styles
        if scene is not None or self.context.style or not styles or turn % 2 == 0:
            return scene
        return styles[turn // 2 % len(styles)]

    def _frozen(self, z: torch.Tensor, t: torch.Tensor, name: str, scene: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        """eps0(z, c) and eps0(z, "") for those prompts."""
        prompts = [self.context.plain(name, scene), self.context.neutral(scene)]
        cond = self.context.frozen_rows(prompts)
        concept, empty = self.context.predict_frozen(torch.cat([z, z]), torch.cat([t, t]), cond).chunk(2)
        return concept, empty
