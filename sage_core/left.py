"""How much of the concept is left while it is erased: one number and one curve, 1 for the untouched model, 0 where it is gone.

The concept's pull is what its name adds to the predicted noise: pull = eps0(z, c) - eps0(z, ""), with what is shown beside the
concept in both prompts. What is left of it is the projection of what the name adds now:

    left = sum <eps(z, c) - eps0(z, ""), pull> / sum <pull, pull>   over some noisy latents z

So neither an error across the pull nor a prediction beyond the empty prompt, where negative guidance aims, counts as left. It is a
ratio of sums: states near the end of a trajectory, where the concept pulls little, would drown a mean of ratios.

The rows of a training step do not tell it. A method that erases the bare word is soon at 0 there, while "a drawing of a dog" still
shows one; a search's finds are not the concept's name; and one or two rows a step are noise. So a few states of the bank are looked at again
and again with plain prompts: all of them after the first step and the last, one after every second step in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .diffusion.text import Conditioning
from .latents import LatentBank, States

WATCHED = 8  # states that are looked at in turn
EVERY = 2  # steps from one look to the next

Row = tuple[float, float]  # <eps - eps0(""), pull> and <pull, pull>


def projected(predicted: torch.Tensor, concept: torch.Tensor, empty: torch.Tensor) -> list[Row | None]:
    """One row for each of the predictions [n, 4, h, w]; None where a number is not finite."""
    pull = (concept - empty).double().flatten(1)
    now = (predicted - empty).double().flatten(1)
    rows = torch.stack([(now * pull).sum(1), pull.square().sum(1)], dim=1)
    return [tuple(row.tolist()) if torch.isfinite(row).all() else None for row in rows]


def share(rows: list[Row]) -> float | None:
    """What is left by these rows, in [0, 1]; None where they cannot tell."""
    pull = sum(square for _, square in rows)
    if pull <= 0:
        return None
    return min(1.0, max(0.0, sum(projection for projection, _ in rows) / pull))


@dataclass
class Looked:
    """A state that is looked at: its prompt, and what the frozen model predicts for it with and without the concept."""

    z: torch.Tensor
    t: torch.Tensor
    prompt: str
    concept: torch.Tensor
    empty: torch.Tensor


@dataclass
class Left:
    """What is left of the concept in a run. `rows`: the last look at every state that has been looked at; `curve`: 1 before the run, and
    the share after every step.

    UNet passes are not counted as cost, since they erase nothing: one without gradients for a look, and two for a state's first one
    where the bank does not know what the frozen model predicts.
    """

    context: object
    rows: dict[int, Row] = field(default_factory=dict)
    curve: list[float] = field(default_factory=lambda: [1.0])
    known: dict[int, Looked] = field(default_factory=dict)

    def now(self) -> float | None:
        """The share that is left; None where nothing could be looked at."""
        return self.curve[-1] if self.rows else None

    def look(self, step: int, last: bool, states: States | None) -> None:
        """After a step, counted from 0. `states`: of that step, to look at where there is no bank of them."""
        banked = isinstance(self.context.source, LatentBank)
        if banked and len(self.context.source.erase_t) == 0 or not banked and states is None:
            return
        model, turns = self.context.model, self._turns(step, last, banked)
        cost = (model.cost.forwards, model.cost.backwards)
        try:
            with torch.no_grad():
                self._look_at(turns, None if banked else states)
        finally:
            model.cost.forwards, model.cost.backwards = cost
        now = share(list(self.rows.values()))
        self.curve.append(self.curve[-1] if now is None else now)

    def _turns(self, step: int, last: bool, banked: bool) -> list[int]:
        if not banked:
            return [step % WATCHED]
        if last or not self.rows:
            return list(range(WATCHED))
        return [step // EVERY % WATCHED] if step % EVERY == 0 else []

    def _look_at(self, turns: list[int], states: States | None) -> None:
        if not turns:
            return
        for turn in turns:
            if states is not None or turn not in self.known:
                self.known[turn] = self._fresh(turn, states) if states is not None else self._banked(turn)
        looked, model = [self.known[turn] for turn in turns], self.context.model
        cond = model.encode([one.prompt for one in looked])
        predicted = model.predict_noise(torch.cat([one.z for one in looked]), torch.cat([one.t for one in looked]), cond)
        found = projected(predicted, torch.cat([one.concept for one in looked]), torch.cat([one.empty for one in looked]))
        self.rows |= {turn: row for turn, row in zip(turns, found) if row is not None}

    def _banked(self, turn: int) -> Looked:
        """One of the bank's states, spread evenly over it, with the name that drew it."""
        bank, names = self.context.source, self.context.names
        i = turn * len(bank.erase_t) // WATCHED
        trajectory = int(bank.erase_scene[i])
        name, own = names[trajectory % len(names)], bank.scenes[trajectory]
        z, t, scene = bank.erase_z[i : i + 1], bank.erase_t[i : i + 1], self._scene(turn, own)
        if scene == own:
            return Looked(z, t, self.context.plain(name, scene), bank.eps_concept[i : i + 1], bank.eps_empty[i : i + 1])
        return self._predicted(z, t, name, scene)

    def _fresh(self, turn: int, states: States) -> Looked:
        return self._predicted(states.z[:1], states.t[:1], self.context.names[0], self._scene(turn, states.scenes[0]))

    def _predicted(self, z: torch.Tensor, t: torch.Tensor, name: str, scene: str | None) -> Looked:
        prompt = self.context.plain(name, scene)
        cond = Conditioning.cat([self.context.frozen(prompt), self.context.frozen(self.context.neutral(scene))])
        concept, empty = self.context.predict_frozen(torch.cat([z, z]), torch.cat([t, t]), cond).chunk(2)
        return Looked(z, t, prompt, concept, empty)

    def _scene(self, turn: int, scene: str | None) -> str | None:
        """Every second look at a thing that is alone puts it into a style, since whole prompts are what it has to be gone from."""
        styles = self.context.other_styles
        if scene is not None or self.context.style or not styles or turn % 2 == 0:
            return scene
        return styles[turn // 2 % len(styles)]
